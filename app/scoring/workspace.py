"""Where matrices as large as the features are put: into memory, or into temporary files when they do not fit.

A file is mapped into memory, so that it is read and written like any array. It has no name any more when it is
handed out: it is gone with the last array that refers to it, and when the process is killed.
"""

import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from app.domain.errors import EvaluationFailed

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_SHARE_OF_MACHINE = 2
_TOGETHER = 4  # matrices of the size of the features that are in use at a time
_TOGETHER_SQUARE = 3  # a symmetric matrix, its eigenvectors, and what their computation takes
_PARTS = 16
_LARGEST_PART = 1 << 25
_DOUBLE = 8


class Workspace:
    """A budget of memory for matrices.

    Attributes:
        memory_bytes: what the matrices in use may take together.
    """

    def __init__(self, memory_bytes: int | None = None) -> None:
        """Take a budget; None stands for half of the machine's, or the container's, memory."""
        self.memory_bytes = _machine_bytes() // _SHARE_OF_MACHINE if memory_bytes is None else memory_bytes

    def holds(self, rows: int, columns: int) -> bool:
        """Tell whether a matrix in double precision of this size is kept in memory."""
        return rows * columns * _DOUBLE * _TOGETHER <= self.memory_bytes

    def matrix(self, rows: int, columns: int, dtype: DTypeLike = np.float64) -> NDArray[Any]:
        """Return a new matrix, its entries not set, in memory or in a file.

        Raises:
            EvaluationFailed: ``no_room_on_disk``.
        """
        if self.holds(rows, columns):
            return np.empty((rows, columns), dtype=dtype)
        size = rows * columns * np.dtype(dtype).itemsize
        try:
            with tempfile.TemporaryFile() as file:
                # All at once: writing to a mapped file when there is no room kills the process.
                os.posix_fallocate(file.fileno(), 0, size)
                mapped = np.memmap(file, dtype=dtype, mode="r+", shape=(rows, columns))
        except OSError as error:
            raise EvaluationFailed(
                "no_room_on_disk",
                f"A matrix of {rows} x {columns} does not fit into memory, and a temporary file of {size / 1e9:.1f} GB "
                f"in {tempfile.gettempdir()} failed: {error.strerror}.",
                param="features",
                hint="Make room, or set TMPDIR to a folder on a disk with more of it.",
            ) from error
        return np.asarray(mapped)

    def parts(self, rows: int, columns: int) -> Iterator[slice]:
        """Yield the rows in blocks that may be copied: all at once if the matrix is kept in memory."""
        size = rows if self.holds(rows, columns) else self.block_rows(columns)
        for start in range(0, rows, max(size, 1)):
            yield slice(start, min(start + size, rows))

    def block_rows(self, columns: int) -> int:
        """Return how many rows of this length are a small part of the budget."""
        return max(1, min(self.memory_bytes // _PARTS, _LARGEST_PART) // (columns * _DOUBLE))

    def demand(self, entries: int, what: str) -> None:
        """Refuse a computation whose matrices can be in memory only.

        Args:
            entries: of one matrix; three of its size are in use.
            what: it takes.

        Raises:
            EvaluationFailed: ``too_many_images``.
        """
        needed = entries * _DOUBLE * _TOGETHER_SQUARE
        if needed > self.memory_bytes:
            raise EvaluationFailed(
                "too_many_images",
                f"{what} takes {needed / 1e9:.3g} GB of memory; {self.memory_bytes / 1e9:.3g} GB may be used.",
                param="features",
                hint="Score a sample of the images, use a machine with more memory, or raise memory_bytes.",
            )


@cache
def _machine_bytes() -> int:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.is_file() else "max"
    return physical if limit == "max" else min(physical, int(limit))
