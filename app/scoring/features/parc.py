"""PARC: whether images that look alike to the model are those of the same class.

Legend: N images, V standardised dimensions, P = N (N - 1) / 2 pairs, S <= P of them of the same class, T groups of tied
pairs, Q bins.

The distance of two labels is 0 or 1 + 1/(C - 1): only which pairs are of the same class matters. Spearman's
correlation is then a rank sum of the same-class pairs over the standard deviation of all ranks, ties sharing theirs.
"""

import math

import numpy as np
from numpy.typing import NDArray

from app.scoring.contract import Result
from app.scoring.features.dissimilarities import (
    BINS,
    EXACT_IMAGES,
    bins_of,
    packed_pairs,
    pair_blocks,
    profile_rows,
)
from app.scoring.panel import Panel

_Matrix = NDArray[np.float64]


def parc(panel: Panel) -> Result:
    """Return 100 times Spearman's correlation of the features' and the labels' distances over all pairs.

    The features' distance is 1 - Pearson correlation of the standardised features of two images. Of more than 6,000
    images, similarities that differ by less than 2.4e-7 count as tied, so that they need not be kept.

    Source: Bolya et al. 2021, arXiv:2111.06977, without the reduction to 32 dimensions.
    """
    if panel.constant:
        return Result(value=0.0, null_value=0.0, warnings=("constant_features",))
    order_N = panel.class_order_N
    pairs = panel.num_images * (panel.num_images - 1) // 2
    same_pairs = int((panel.counts_C * (panel.counts_C - 1)).sum()) // 2
    if same_pairs == 0:
        return Result(value=0.0, warnings=("no_variation",))
    stops_N = np.cumsum(panel.counts_C)[panel.labels_N[order_N]]  # where the class of each row ends
    unit_NV = profile_rows(panel.centred_copy(order_N))
    if panel.num_images > EXACT_IMAGES:
        excess, ties = _by_counting(unit_NV, stops_N)
    else:
        all_P = packed_pairs(unit_NV)
        del unit_NV  # as large as the features
        excess, ties = _by_sorting(all_P, stops_N)
    spread = (float(pairs) ** 3 - pairs - ties) / 12
    if spread <= 0:
        return Result(value=0.0, warnings=("no_variation",))
    value = excess / math.sqrt(spread * same_pairs * ((pairs - same_pairs) / pairs))
    return Result(value=100 * value, null_value=0.0)


def _by_sorting(all_P: _Matrix, stops_N: NDArray[np.intp]) -> tuple[float, float]:
    """Return (rank sum of the same-class pairs less its mean over all labels, sum of t^3 - t over ties).

    The packed similarities of all pairs are sorted in place.
    """
    images = len(stops_N)
    same_S = np.empty(int((stops_N - np.arange(1, images + 1)).sum()))
    filled = offset = 0
    for row, stop in enumerate(stops_N):
        later = int(stop) - row - 1  # rows are in the order of their classes
        same_S[filled : filled + later] = all_P[offset : offset + later]
        filled, offset = filled + later, offset + images - row - 1
    all_P.sort()
    same_S.sort()
    below_S = np.searchsorted(all_P, same_S, side="left")
    ends_S = np.searchsorted(all_P, same_S, side="right")
    excess = float((below_S + ends_S - len(all_P)).sum()) / 2
    tied = np.flatnonzero(all_P[1:] == all_P[:-1])
    ties = 0.0
    if len(tied):
        runs_T = np.diff(np.flatnonzero(np.concatenate(([True], np.diff(tied) > 1, [True])))).astype(np.float64) + 1
        ties = float((runs_T**3 - runs_T).sum())
    return excess, ties


def _by_counting(unit_NV: _Matrix, stops_N: NDArray[np.intp]) -> tuple[float, float]:
    """Return the same as ``_by_sorting``, pairs in one bin being tied."""
    all_Q, same_Q = np.zeros(BINS, dtype=np.int64), np.zeros(BINS, dtype=np.int64)
    for start, stop, similarity_BN in pair_blocks(unit_NV):
        later_BN = np.arange(start, stop)[:, None] < np.arange(start, len(unit_NV))
        same_BN = later_BN & (np.arange(start, len(unit_NV)) < stops_N[start:stop, None])
        bins_BN = bins_of(similarity_BN)
        np.add.at(all_Q, bins_BN[later_BN], 1)
        np.add.at(same_Q, bins_BN[same_BN], 1)
    below_Q = np.cumsum(all_Q) - all_Q
    pairs = int(all_Q.sum())
    excess = float((same_Q * (2 * below_Q + all_Q - pairs)).sum()) / 2
    filled = all_Q[all_Q > 1].astype(np.float64)
    return excess, float((filled**3 - filled).sum())
