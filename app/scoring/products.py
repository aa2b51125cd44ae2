"""The matrix products and the decomposition that take nearly all the time of the scores.

Legend: A, B, N rows, D columns, M size of a symmetric matrix.

They are apart from the scores so that a worker with a GPU can compute them there; this package knows numpy only.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

_Matrix = NDArray[np.float64]
_MOST_WORKSPACE = 1 << 30  # LAPACK counts the entries of its workspace in 32 bits


class Products(Protocol):
    """What computes them. Results are new arrays, to at least ten digits those of double precision."""

    def gram(self, rows_ND: _Matrix) -> _Matrix:
        """Return the inner products of all rows (N x N)."""

    def scatter(self, rows_ND: _Matrix) -> _Matrix:
        """Return the inner products of all columns (D x D)."""

    def times(self, left_AD: NDArray[Any], right_DB: NDArray[Any]) -> NDArray[Any]:
        """Return a product of two matrices (A x B), of their type."""

    def eigh(self, symmetric_MM: _Matrix) -> tuple[_Matrix, _Matrix]:
        """Return (eigenvalues, the largest first; eigenvectors as columns) of a symmetric matrix, which is overwritten.

        The vectors are of length one, and at right angles; their signs are free.
        """


class NumpyProducts:
    """Products by numpy's BLAS, which forms half of a product of a matrix with its own transpose."""

    def __init__(self, workspace_bytes: int = _MOST_WORKSPACE) -> None:
        """Take how much memory a decomposition may use beside its matrix and eigenvectors, 1 GB at most."""
        self._workspace_bytes = min(workspace_bytes, _MOST_WORKSPACE)

    def gram(self, rows_ND: _Matrix) -> _Matrix:
        """See ``Products``."""
        return np.asarray(rows_ND @ rows_ND.T)

    def scatter(self, rows_ND: _Matrix) -> _Matrix:
        """See ``Products``."""
        return np.asarray(rows_ND.T @ rows_ND)

    def times(self, left_AD: NDArray[Any], right_DB: NDArray[Any]) -> NDArray[Any]:
        """See ``Products``."""
        return np.asarray(left_AD @ right_DB)

    def eigh(self, symmetric_MM: _Matrix) -> tuple[_Matrix, _Matrix]:
        """See ``Products``."""
        # Of minus the matrix, so that the largest come first; in LAPACK's order of entries, so that none is copied.
        negated_MM = np.negative(symmetric_MM, out=symmetric_MM).T
        # Divide and conquer has more of its work in matrix products, and a workspace of two matrices.
        driver = "evd" if 2 * negated_MM.nbytes <= self._workspace_bytes else "evr"
        values_M, vectors_MM = eigh(negated_MM, overwrite_a=True, check_finite=False, driver=driver)
        return np.negative(values_M, out=values_M), vectors_MM
