"""A file on its way to the service."""

import os
from collections.abc import Callable
from typing import IO

from app.client.errors import Failure

OnProgress = Callable[[int, int], None]
"""Called with the bytes sent so far and the bytes there are."""


class Observed:
    """A file that tells how much of it was read, and that it changes meanwhile."""

    def __init__(self, file: IO[bytes], size: int, on_progress: OnProgress | None) -> None:
        """Read from an open file of ``size`` bytes."""
        self._file = file
        self._size = size
        self._on_progress = on_progress

    def read(self, size: int = -1) -> bytes:
        """Read on, and tell.

        Raises:
            OSError: the file has more bytes than at the beginning, or fewer: it cannot be sent as announced.
        """
        chunk = self._file.read(size)
        place = self._file.tell()
        if place > self._size or (not chunk and size != 0 and place < self._size):
            raise OSError("it was written to while it was sent")
        if self._on_progress is not None:
            self._on_progress(place, self._size)
        return chunk

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go somewhere else."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return where the file is."""
        return self._file.tell()


def not_readable(path: str, reason: str) -> Failure:
    """Return the failure of a file that cannot be sent."""
    return Failure(
        "file_not_readable",
        f"{path} cannot be read: {reason}.",
        param=path,
        hint="Check the path, who may read it, and that nothing writes to it.",
    )
