"""Agreement with a reference model: whether both find the same pairs of images alike. No label is read.

Legend: N images, V standardised dimensions of the model, W of the reference, P = N (N - 1) / 2 pairs, Q bins.
"""

import math

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import EvaluationFailed
from app.scoring.contract import Result
from app.scoring.features.dissimilarities import (
    BINS,
    EXACT_IMAGES,
    bins_of,
    make_unit,
    packed_pairs,
    packed_ranks,
    pair_blocks,
    profile_rows,
    standardise,
)
from app.scoring.panel import Panel
from app.scoring.products import Products

_Matrix = NDArray[np.float64]
_BLOCK, _BLOCK_ENTRIES = 512, 4_000_000  # images, and entries of a product, at a time
_ROUNDING = 1e-12  # mean squared entry of a U-centred matrix that is rounding; similarities are of order one


def rsa(panel: Panel) -> Result:
    """Return 100 times Spearman's correlation of the two models' distances over all pairs of images.

    The distance is 1 - Pearson correlation of the standardised features of two images. Of more than 6,000 images,
    similarities that differ by less than 2.4e-7 count as tied, so that they need not be kept.

    Source: Dwivedi and Roig 2019, arXiv:1904.11740.

    Raises:
        EvaluationFailed: ``constant_reference``: the reference has the same features for all images.
    """
    reference_NR = _centred_reference(panel)
    if panel.constant:
        return Result(value=0.0, warnings=("constant_features",))
    ours_NV, theirs_NW = profile_rows(panel.centred_copy()), profile_rows(reference_NR)
    correlate = _by_sorting if panel.num_images <= EXACT_IMAGES else _by_counting
    correlation = correlate(ours_NV, theirs_NW)
    if correlation is None:
        return Result(value=0.0, warnings=("no_variation",))
    return Result(value=100 * correlation)


def dds(panel: Panel) -> Result:
    """Return 100 times the debiased centred kernel alignment of the two models' cosine distances.

    Features are standardised first. U-centring leaves the pairs of an image with itself out, and makes the value zero
    on average when the models have nothing in common; the sums over pairs are formed in N x N blocks or from products
    of dimensions, whichever takes less.

    Three images have no debiased form other than zero: ``no_variation``.

    Source: Dwivedi et al. 2020, arXiv:2008.02107, with the debiased criterion.

    Raises:
        EvaluationFailed: ``constant_reference``: the reference has the same features for all images.
    """
    reference_NR = _centred_reference(panel)
    if panel.constant:
        return Result(value=0.0, warnings=("constant_features",))
    ours_NV, theirs_NW = _centred_units(panel.centred_copy()), _centred_units(reference_NR)
    both, own, other = _alignments(panel.products, ours_NV, theirs_NW)
    if own <= _ROUNDING * panel.num_images**2 or other <= _ROUNDING * panel.num_images**2:
        return Result(value=0.0, warnings=("no_variation",))
    return Result(value=100 * both / math.sqrt(own * other))


def _centred_reference(panel: Panel) -> _Matrix:
    reference_NR = panel.reference_NR
    if reference_NR is None:
        raise EvaluationFailed(
            "reference_required",
            "Another model's features of the same images are needed to compare with.",
            param="reference_features",
            hint="Pass them as reference_features.",
        )
    same_R = reference_NR.min(axis=0) == reference_NR.max(axis=0)
    centred_NR = reference_NR
    centred_NR -= reference_NR.mean(axis=0)
    centred_NR[:, same_R] = 0.0
    if not centred_NR.any():
        raise EvaluationFailed(
            "constant_reference",
            "The reference model has the same features for all images, so there is nothing to agree with.",
            param="reference_features",
            hint="Choose another reference model.",
        )
    return np.asarray(centred_NR)


def _by_sorting(ours_NV: _Matrix, theirs_NW: _Matrix) -> float | None:
    """Return Spearman's correlation over pairs; None when one model finds all pairs equally alike."""
    ours_P = packed_ranks(packed_pairs(ours_NV))
    theirs_P = packed_ranks(packed_pairs(theirs_NW))
    return _pearson(float(ours_P @ theirs_P), float(ours_P @ ours_P), float(theirs_P @ theirs_P))


def _by_counting(ours_NV: _Matrix, theirs_NW: _Matrix) -> float | None:
    """Return the same as ``_by_sorting``, pairs in one bin being tied: one pass counts them, another multiplies."""
    ours_Q, theirs_Q = _binned_ranks(ours_NV), _binned_ranks(theirs_NW)
    product = ours = theirs = 0.0
    for (start, stop, ours_BN), (_, _, theirs_BN) in zip(pair_blocks(ours_NV), pair_blocks(theirs_NW), strict=True):
        later_BN = np.arange(start, stop)[:, None] < np.arange(start, len(ours_NV))
        first, second = ours_Q[bins_of(ours_BN[later_BN])], theirs_Q[bins_of(theirs_BN[later_BN])]
        product, ours, theirs = (
            product + float(first @ second),
            ours + float(first @ first),
            theirs + float(second @ second),
        )
    return _pearson(product, ours, theirs)


def _binned_ranks(unit_NV: _Matrix) -> _Matrix:
    count_Q = np.zeros(BINS, dtype=np.int64)
    for start, stop, similarity_BN in pair_blocks(unit_NV):
        later_BN = np.arange(start, stop)[:, None] < np.arange(start, len(unit_NV))
        np.add.at(count_Q, bins_of(similarity_BN[later_BN]), 1)
    return np.asarray(2 * (np.cumsum(count_Q) - count_Q) + count_Q - count_Q.sum(), dtype=np.float64)


def _pearson(product: float, ours: float, theirs: float) -> float | None:
    return product / math.sqrt(ours * theirs) if ours > 0 and theirs > 0 else None


def _centred_units(centred_ND: _Matrix) -> _Matrix:
    """Return standardised rows of length one less their mean, which U-centring does not notice; overwrites."""
    unit_NV = standardise(centred_ND)
    make_unit(unit_NV)
    unit_NV -= unit_NV.mean(axis=0)
    return unit_NV


def _alignments(products_of: Products, ours_NV: _Matrix, theirs_NW: _Matrix) -> tuple[float, float, float]:
    """Return the inner products (ours and theirs, ours, theirs) of the U-centred Gram matrices of centred rows."""
    n, v, w = len(ours_NV), ours_NV.shape[1], theirs_NW.shape[1]
    narrow = v * w + (v * v + w * w) / 2 <= n * (v + w) / 2
    find = _products_of_dimensions if narrow else _products_of_images
    products = find(products_of, ours_NV, theirs_NW)
    ours_N, theirs_N = np.einsum("nv,nv->n", ours_NV, ours_NV), np.einsum("nw,nw->n", theirs_NW, theirs_NW)
    both, ours, theirs = (
        # Without its diagonal a row of a Gram matrix sums to minus its diagonal entry.
        product - left_N @ right_N * (1 + 2 / (n - 2)) + left_N.sum() * right_N.sum() / ((n - 1) * (n - 2))
        for product, left_N, right_N in zip(
            products, (ours_N, ours_N, theirs_N), (theirs_N, ours_N, theirs_N), strict=True
        )
    )
    return float(both), float(ours), float(theirs)


def _products_of_dimensions(products: Products, ours_NV: _Matrix, theirs_NW: _Matrix) -> tuple[float, float, float]:
    """Return the inner products of the two Gram matrices and of each with itself, from cross products."""
    each = products.times(ours_NV.T, theirs_NW), products.scatter(ours_NV), products.scatter(theirs_NW)
    both, ours, theirs = (_inner(product, product) for product in each)
    return both, ours, theirs


def _products_of_images(products: Products, ours_NV: _Matrix, theirs_NW: _Matrix) -> tuple[float, float, float]:
    """Return the same from the Gram matrices, in blocks: those above the diagonal count twice."""
    both = ours = theirs = 0.0
    block = max(1, min(_BLOCK, _BLOCK_ENTRIES // len(ours_NV)))
    for start in range(0, len(ours_NV), block):
        stop = min(start + block, len(ours_NV))
        for columns, times in ((slice(start, stop), 1), (slice(stop, None), 2)):
            ours_BN = products.times(ours_NV[start:stop], ours_NV[columns].T)
            theirs_BN = products.times(theirs_NW[start:stop], theirs_NW[columns].T)
            both += times * _inner(ours_BN, theirs_BN)
            ours += times * _inner(ours_BN, ours_BN)
            theirs += times * _inner(theirs_BN, theirs_BN)
    return both, ours, theirs


def _inner(left: _Matrix, right: _Matrix) -> float:
    return float(np.vdot(left, right))
