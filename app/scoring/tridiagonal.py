"""A symmetric matrix as Q T Q', T tridiagonal: shifted systems at many shifts, at a third of the cost of eigenvectors.

Legend: M rows of the matrix, B columns of a right-hand side.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh_tridiagonal
from scipy.linalg.lapack import dorgqr, dormqr, dpttrf, dpttrs, dsytrd, dsytrd_lwork

_Array = NDArray[np.float64]
_BLOCK = 64


class Tridiagonal:
    """Q and T of one positive semi-definite matrix, by Householder reflections.

    Attributes:
        eigenvalues_M: never negative, smallest first.
    """

    def __init__(self, matrix_MM: _Array) -> None:
        self._size = len(matrix_MM)
        if self._size == 1:
            self._diagonal_M, self._beside_M = matrix_MM[0].copy(), np.zeros(0)
        else:
            work, _ = dsytrd_lwork(self._size, lower=1)
            self._reflectors_MM, self._diagonal_M, self._beside_M, self._factors_M, _ = dsytrd(
                matrix_MM, lower=1, lwork=int(work)
            )
        values_M = (
            eigvalsh_tridiagonal(self._diagonal_M, self._beside_M, lapack_driver="sterf")
            if self._size > 1
            else self._diagonal_M
        )
        self.eigenvalues_M: _Array = np.maximum(values_M, 0.0)

    @property
    def largest(self) -> float:
        """The largest eigenvalue; 1 for a matrix of zeros."""
        return float(self.eigenvalues_M[-1]) or 1.0

    def rotate(self, columns_MB: _Array) -> _Array:
        """Return Q' times the columns."""
        rotated_MB = np.array(columns_MB, dtype=np.float64, order="F")
        if self._size > 2:
            rotated_MB[1:], _, _ = dormqr(
                "L",
                "T",
                self._reflectors_MM[1:, :-1],
                self._factors_M,
                rotated_MB[1:],
                lwork=_BLOCK * max(1, rotated_MB.shape[1]),
            )
        elif self._size == 2:
            rotated_MB[1] *= 1 - self._factors_M[0]
        return rotated_MB

    def rotated_identity(self) -> _Array:
        """Return Q', at two thirds of the cost of ``rotate``."""
        if self._size <= 2:
            return self.rotate(np.eye(self._size))
        basis_MM = np.eye(self._size)
        basis_MM[1:, 1:], _, _ = dorgqr(self._reflectors_MM[1:, :-1], self._factors_M, lwork=_BLOCK * self._size)
        return basis_MM.T

    def solve(self, shift: float, rotated_MB: _Array) -> _Array:
        """Return (T + shift I)^-1 times rotated columns; the shift must exceed the rounding of the eigenvalues."""
        if self._size == 1:
            return np.asarray(rotated_MB / (self._diagonal_M[0] + shift))
        pivots_M, ratios_M, _ = dpttrf(self._diagonal_M + shift, self._beside_M)
        solved_MB, _ = dpttrs(pivots_M, ratios_M, rotated_MB)
        return np.asarray(solved_MB)
