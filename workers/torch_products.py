"""The large products of the scores, by PyTorch.

Legend: A, B, N rows, D columns, M size of a symmetric matrix.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.scoring.products import NumpyProducts

log = structlog.get_logger()

_Matrix = NDArray[np.float64]
_Answer = TypeVar("_Answer")
_LEAST_WORK = 1 << 28  # multiplications: fewer are done sooner than the device has been asked
_LEAST_FOR_EACH_ENTRY = 256  # multiplications that make up for bringing an entry there, or back


class TorchProducts:
    """Products in double precision on a device; what is too small for the way there is left to numpy.

    A score is to be the same on every worker, and that takes double precision: in float32 a Gram matrix has half of
    its digits, its eigenvalues are noise below the seventh digit of the largest, and H-score, LogME and LDA divide by
    them. Data-centre GPUs compute in float64 as fast as in plain float32, or half as fast.

    When the device is out of memory, which networks take too, numpy takes over for good.
    """

    def __init__(self, device: torch.device, *, always: bool = False, block_entries: int = 1 << 26) -> None:
        """Choose the device.

        Args:
            device: one that has float64.
            always: whether to compute small products there too.
            block_entries: how much of a factor is brought there at a time; the default takes 512 MB.
        """
        self._device, self._always, self._block_entries = device, always, block_entries
        self._numpy = NumpyProducts()
        self._full = False

    def gram(self, rows_ND: _Matrix) -> _Matrix:
        """See ``Products``."""
        rows, columns = rows_ND.shape

        def there() -> _Matrix:
            total_NN = self._zeros(rows, rows)
            for block in self._blocks(columns, rows):
                part_NB = self._sent(rows_ND[:, block])
                total_NN.addmm_(part_NB, part_NB.T)
            return _fetched(total_NN)

        return self._either(rows**2 * columns, rows_ND.size + rows**2, there, lambda: self._numpy.gram(rows_ND))

    def scatter(self, rows_ND: _Matrix) -> _Matrix:
        """See ``Products``."""
        rows, columns = rows_ND.shape

        def there() -> _Matrix:
            total_DD = self._zeros(columns, columns)
            for block in self._blocks(rows, columns):
                part_BD = self._sent(rows_ND[block])
                total_DD.addmm_(part_BD.T, part_BD)
            return _fetched(total_DD)

        return self._either(columns**2 * rows, rows_ND.size + columns**2, there, lambda: self._numpy.scatter(rows_ND))

    def times(self, left_AD: NDArray[Any], right_DB: NDArray[Any]) -> NDArray[Any]:
        """See ``Products``; operands in float32 are multiplied in float64 too."""
        (rows, inner), columns = left_AD.shape, right_DB.shape[1]

        def there() -> NDArray[Any]:
            product_AB = np.empty((rows, columns), dtype=np.result_type(left_AD, right_DB))
            sent_DB = self._sent(right_DB)
            for block in self._blocks(rows, max(inner, columns)):
                product_AB[block] = _fetched(self._sent(left_AD[block]) @ sent_DB)
            return product_AB

        moved = left_AD.size + right_DB.size + rows * columns
        return self._either(rows * inner * columns, moved, there, lambda: self._numpy.times(left_AD, right_DB))

    def eigh(self, symmetric_MM: _Matrix) -> tuple[_Matrix, _Matrix]:
        """See ``Products``."""

        def there() -> tuple[_Matrix, _Matrix]:
            values_M, vectors_MM = torch.linalg.eigh(self._sent(symmetric_MM))
            return _fetched(values_M.flip(0)), _fetched(vectors_MM.flip(1))

        # A decomposition takes several times M^3 multiplications.
        work = 8 * len(symmetric_MM) ** 3
        return self._either(work, 2 * symmetric_MM.size, there, lambda: self._numpy.eigh(symmetric_MM))

    def _either(self, work: int, moved: int, there: Callable[[], _Answer], here: Callable[[], _Answer]) -> _Answer:
        worthwhile = work >= _LEAST_WORK and work >= _LEAST_FOR_EACH_ENTRY * moved
        if self._full or not (worthwhile or self._always):
            return here()
        try:
            return there()
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            log.warning("scores.device_out_of_memory", device=str(self._device), error=str(error).partition("\n")[0])
            self._full = True
        # Only here, out of the except block, is the traceback gone that kept the device's matrices alive.
        torch.cuda.empty_cache()
        return here()

    def _blocks(self, count: int, others: int) -> Iterator[slice]:
        size = max(1, self._block_entries // others)
        for start in range(0, count, size):
            yield slice(start, min(start + size, count))

    def _zeros(self, rows: int, columns: int) -> Tensor:
        return torch.zeros((rows, columns), dtype=torch.float64, device=self._device)

    def _sent(self, matrix: NDArray[Any]) -> Tensor:
        """Return a matrix on the device, in float64 from there on."""
        with warnings.catch_warnings():
            # A panel's arrays are read-only, and nothing here writes to them.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            given = torch.from_numpy(matrix)
        return given.to(self._device).to(torch.float64)


def _is_out_of_memory(error: RuntimeError) -> bool:
    # CUDA's libraries have no exception type of their own for it.
    return isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)


def _fetched(tensor: Tensor) -> _Matrix:
    return np.asarray(tensor.cpu().numpy(), dtype=np.float64)
