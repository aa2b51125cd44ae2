"""Coordinates of images of which only the inner products are known.

Legend: N images, K coordinates.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf

_Matrix = NDArray[np.float64]
_INDEPENDENT = 1e-8  # share of the largest squared length that an image adds to those before it, to be independent


def independent_rows(gram_NN: _Matrix) -> _Matrix | None:
    """Return N x (N - 1) rows that sum to zero and have this Gram matrix; None if they are not clearly independent."""
    images = len(gram_NN)
    rows_NK = np.zeros((images, images - 1))
    # LAPACK's lower triangle is the upper one of the transpose, which it can overwrite without a copy.
    rows_NK[:-1] = gram_NN[:-1, :-1]
    factor_KK, failed = dpotrf(rows_NK[:-1].T, lower=0, clean=1, overwrite_a=1)
    pivots_K = np.diagonal(factor_KK)
    if failed or pivots_K.min() ** 2 <= _INDEPENDENT * float(np.diagonal(gram_NN).max()):
        return None
    if not np.shares_memory(factor_KK, rows_NK):
        rows_NK[:-1] = factor_KK.T
    rows_NK[-1] = -rows_NK[:-1].sum(axis=0)
    return rows_NK
