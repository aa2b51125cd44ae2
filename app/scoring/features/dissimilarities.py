"""How unlike two images are to a model: pairs of standardised features.

Legend: N images, D feature dimensions, V <= D of them that vary, B images of a block, P = N (N - 1) / 2 pairs.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_Matrix = NDArray[np.float64]
EXACT_IMAGES = 6000
"""Up to this many images the similarities of all pairs are sorted; with more they are counted in bins."""
BINS = 1 << 23
_GRID = 1e11  # similarities that agree in eleven digits are equal: rounding must not order duplicates
_BLOCK_ENTRIES = 4_000_000  # similarities held at a time: 32 MB
_BLOCK = 128  # rows at a time
_PLACE_BITS = 25  # EXACT_IMAGES have fewer than 2^25 pairs; the grid has fewer than 2^38 values
_SQUARE_VANISHES = 1e-100
_SHORT = 1e-20  # squared length of a row, relative to the mean, below which it is rounding


def standardise(rows_ND: _Matrix) -> _Matrix:
    """Give centred features a standard deviation of one, in place; return them without dimensions that do not vary."""
    largest_D = np.maximum(rows_ND.max(axis=0), -rows_ND.min(axis=0))
    varies_D = largest_D > 0
    if largest_D.min() < _SQUARE_VANISHES:
        rows_ND /= np.where(varies_D, largest_D, 1.0)
    rows_ND *= np.sqrt(len(rows_ND) / np.where(varies_D, np.einsum("nd,nd->d", rows_ND, rows_ND), 1.0))
    if varies_D.all():
        return rows_ND
    kept = int(varies_D.sum())
    for start in range(0, len(rows_ND), _BLOCK):
        rows_ND[start : start + _BLOCK, :kept] = rows_ND[start : start + _BLOCK, varies_D]
    return rows_ND[:, :kept]


def make_unit(rows_NV: _Matrix) -> None:
    """Divide the rows by their length, in place; a row of zeros, or of rounding, becomes zero."""
    squared_N = np.einsum("nv,nv->n", rows_NV, rows_NV)
    kept_N = squared_N > _SHORT * max(rows_NV.shape[1], 1)
    rows_NV *= np.divide(1.0, np.sqrt(squared_N), out=np.zeros_like(squared_N), where=kept_N)[:, None]


def profile_rows(centred_ND: _Matrix) -> _Matrix:
    """Return standardised rows less their own mean, of length one: their products are Pearson correlations.

    A row that is the same in all dimensions has no correlation with any other; it becomes zero. The features given are
    overwritten.
    """
    rows_NV = standardise(centred_ND)
    if rows_NV.shape[1] > 0:
        rows_NV -= rows_NV.mean(axis=1, keepdims=True)
    make_unit(rows_NV)
    return rows_NV


def pair_blocks(unit_NV: _Matrix) -> Iterator[tuple[int, int, _Matrix]]:
    """Yield (start, stop, similarities of images start:stop with images start:), on a grid of whole numbers."""
    images = len(unit_NV)
    block = max(1, min(_BLOCK, _BLOCK_ENTRIES // images))
    for start in range(0, images, block):
        stop = min(start + block, images)
        similarity_BN = unit_NV[start:stop] @ unit_NV[start:].T
        similarity_BN *= _GRID
        np.rint(similarity_BN, out=similarity_BN)
        yield start, stop, similarity_BN


def packed_pairs(unit_NV: _Matrix) -> _Matrix:
    """Return the similarities of all pairs i < j, row after row, on a grid of whole numbers."""
    images = len(unit_NV)
    pairs_P = np.empty(images * (images - 1) // 2)
    filled = 0
    for start, stop, similarity_BN in pair_blocks(unit_NV):
        for row in range(stop - start):
            later = images - start - row - 1
            pairs_P[filled : filled + later] = similarity_BN[row, row + 1 :]
            filled += later
    return pairs_P


def packed_ranks(pairs_P: _Matrix) -> _Matrix:
    """Return twice the mid-ranks of similarities on the grid, less their mean; for up to ``EXACT_IMAGES`` images."""
    # Value and place in one whole number: sorting those is several times as fast as an indirect sort.
    keys_P = (pairs_P + _GRID).astype(np.int64) << _PLACE_BITS
    keys_P |= np.arange(len(pairs_P))
    keys_P.sort()
    places_P = keys_P & ((1 << _PLACE_BITS) - 1)
    keys_P >>= _PLACE_BITS
    ranks_P = np.empty(len(keys_P))
    differ_P = keys_P[1:] != keys_P[:-1]
    if differ_P.all():
        ranks_P[places_P] = np.arange(1.0 - len(keys_P), len(keys_P), 2.0)
        return ranks_P
    starts_T = np.flatnonzero(np.concatenate(([True], differ_P)))
    sizes_T = np.diff(np.append(starts_T, len(keys_P)))
    ranks_P[places_P] = np.repeat(2.0 * starts_T + sizes_T - len(keys_P), sizes_T)
    return ranks_P


def bins_of(similarity: _Matrix) -> NDArray[np.intp]:
    """Return the bins, 2.4e-7 wide, of similarities on the grid."""
    return np.clip((similarity + _GRID) * (BINS / (2 * _GRID)), 0, BINS - 1).astype(np.intp)
