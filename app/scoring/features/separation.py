"""How far classes stand apart: nearest neighbours, variances and distances.

Legend: N images, D feature dimensions, C classes, B images of a block, V pairs of an image and a near
one, W some of them, I some images.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from app.domain.ranking import accuracy_stderr
from app.scoring.contract import Result
from app.scoring.features.held_out import held_out
from app.scoring.features.neighbours import counts, inner_products, nearest
from app.scoring.panel import Panel

_Matrix = NDArray[np.float64]
_Indices = NDArray[np.intp]
_BLOCK_ENTRIES = 2_000_000  # distances held at a time: 16 MB
_DUPLICATE = 1e-8  # squared distance, relative to the mean squared length, below which two images are one
_TIE = 1e-10  # squared distances closer than this, relative to the mean squared length, are equal
_ROUNDING = 1e-13  # squared distance, relative to the mean squared length, that is rounding
_MIN_WITHIN = 1e-12  # share of the variance that is taken to lie within classes, at least


def separation_index(panel: Panel) -> Result:
    """Return the share of images whose nearest other image is of the same class.

    Nearest by Euclidean distance. Images with the same features as the one asked about are left out with it: a
    duplicate would give the answer away. Of several images at the same distance the most frequent class counts; where
    that is undecided, or no image is left, the answer is wrong.

    Source: Kalhor et al. 2020, arXiv:2012.13717; the rule is Cover and Hart's, doi:10.1109/TIT.1967.1053964.

    Raises:
        EvaluationFailed: ``no_held_out_images``: no class has two images.
    """
    held_out_N = held_out(panel)
    right_N = np.zeros(panel.num_images, dtype=bool)
    in_full_I, single = np.arange(panel.num_images), True
    if not panel.gram_known and not panel.constant:
        in_full_I, single = _screened_answers(panel, right_N)
    duplicates = False
    mean_square = float(panel.squared_norms_N.mean())
    for images_B, squared_BN in _squared_distances(panel, in_full_I):
        same_BN = squared_BN <= _DUPLICATE * mean_square
        same_BN[np.arange(len(images_B)), images_B] = True
        duplicates |= int(same_BN.sum()) > len(images_B)
        squared_BN[same_BN] = np.inf
        nearest_B = squared_BN.min(axis=1)
        near_BN = (squared_BN <= nearest_B[:, None] + _TIE * mean_square) & np.isfinite(squared_BN)
        row_V, image_V = np.nonzero(near_BN)
        single &= len(row_V) == len(images_B) and bool(np.isfinite(nearest_B).all())
        right_N[images_B] = _majority(row_V, panel.labels_N[image_V], panel.labels_N[images_B], panel.num_classes)
    right_N &= held_out_N
    total, right = int(held_out_N.sum()), int(right_N.sum())
    counts_C, n = panel.counts_C.astype(np.float64), panel.num_images
    return Result(
        value=right / total,
        stderr=accuracy_stderr(right, total),
        # With one nearest image for each, two images share a class as often as any two do.
        null_value=float(counts_C @ (counts_C - 1)) / (n - 1) / total if single else None,
        warnings=("constant_features",) * panel.constant
        + ("duplicate_features",) * (duplicates and not panel.constant)
        + ("singleton_class",) * bool((panel.counts_C == 1).any()),
        influence_N=np.where(held_out_N, right_N - right / total, 0.0) / total,
        per_image_N=right_N,
        held_out_N=held_out_N,
    )


def fisher_ratio(panel: Panel) -> Result:
    """Return the variance of the class means, weighted by class size, over the mean variance within classes.

    Both are traces, so directions of large variance count most. Where nothing varies within classes, a share of 1e-12
    of the variance is taken to (``exact_fit``). The null value is the ratio of the two mean values under shuffled
    labels, (C - 1) / (N - C).

    Source: Fisher 1936, doi:10.1111/j.1469-1809.1936.tb02137.x, summed over dimensions.
    """
    if panel.constant:
        return Result(value=0.0, null_value=0.0, warnings=("constant_features",))
    means_CD, residual_N = panel.class_means_CD, panel.residual_norms_N
    length_C = np.einsum("cd,cd->c", means_CD, means_CD)
    between, total = float(panel.counts_C @ length_C), float(panel.squared_norms_N.sum())
    within = float(residual_N.sum())
    if within <= _MIN_WITHIN * total:
        return Result(value=between / (_MIN_WITHIN * total), warnings=("exact_fit",))
    # An image of weight 1 + e adds e |x|^2 to the total, of which e |x - m|^2 is within its class.
    between_N = panel.squared_norms_N - residual_N
    return Result(
        value=between / within,
        null_value=(panel.num_classes - 1) / (panel.num_images - panel.num_classes),
        influence_N=(between_N - between / within * residual_N) / within,
    )


def silhouette(panel: Panel) -> Result:
    """Return the mean over images of (b - a) / max(a, b), from exact Euclidean distances.

    a is the mean distance to the other images of the class, b the smallest mean distance to the images of another
    class. An image that is alone in its class counts 0.

    Source: Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7, Section 2.
    """
    if panel.constant:
        return Result(value=0.0, null_value=0.0, warnings=("constant_features",))
    n, counts_C = panel.num_images, panel.counts_C
    order_N = np.argsort(panel.labels_N, kind="stable")
    starts_C = np.cumsum(counts_C) - counts_C
    mean_square = float(panel.squared_norms_N.mean())
    silhouette_N, indirect_N = np.zeros(n), np.zeros(n)
    for images_B, distance_BN in _squared_distances(panel, np.arange(n)):
        start, stop = int(images_B[0]), int(images_B[-1]) + 1
        distance_BN[distance_BN <= _ROUNDING * mean_square] = 0.0
        distance_BN[np.arange(stop - start), np.arange(start, stop)] = 0.0
        np.sqrt(distance_BN, out=distance_BN)
        distance_BN = distance_BN[:, order_N]
        rows_B, own_B = np.arange(stop - start), panel.labels_N[start:stop]
        mean_BC = np.add.reduceat(distance_BN, starts_C, axis=1)
        others_B = counts_C[own_B] - 1
        a_B = mean_BC[rows_B, own_B] / np.maximum(others_B, 1)
        mean_BC /= counts_C
        mean_BC[rows_B, own_B] = np.inf
        other_B = mean_BC.argmin(axis=1)
        b_B = mean_BC[rows_B, other_B]
        largest_B = np.maximum(a_B, b_B)
        counted_B = (others_B > 0) & (largest_B > 0)
        scale_B = np.where(counted_B, largest_B, 1.0)
        silhouette_N[start:stop] = np.where(counted_B, (b_B - a_B) / scale_B, 0.0)
        # d s / d a and d s / d b; the mean distance to a class of k images moves by (distance - mean) / k.
        slope_a_B = np.where(counted_B, -np.where(a_B < b_B, 1.0, b_B / scale_B) / scale_B, 0.0)
        slope_b_B = np.where(counted_B, np.where(a_B < b_B, a_B / scale_B, 1.0) / scale_B, 0.0)
        slope_a_B, slope_b_B = slope_a_B / np.maximum(others_B, 1), slope_b_B / counts_C[other_B]
        slope_BC = np.zeros_like(mean_BC)
        slope_BC[rows_B, own_B], slope_BC[rows_B, other_B] = slope_a_B, slope_b_B
        distance_BN *= np.repeat(slope_BC, counts_C, axis=1)
        indirect_N[order_N] += distance_BN.sum(axis=0)
        constant_C = np.bincount(own_B, slope_a_B * a_B, len(counts_C))
        constant_C += np.bincount(other_B, slope_b_B * b_B, len(counts_C))
        indirect_N -= constant_C[panel.labels_N]
        indirect_N[start:stop] += slope_a_B * a_B  # an image is not among the others of its class
    value = float(silhouette_N.mean())
    return Result(value=value, influence_N=(silhouette_N - value + indirect_N) / n)


def _screened_answers(panel: Panel, right_N: NDArray[np.bool_]) -> tuple[_Indices, bool]:
    """Fill in the answers that are certain; return (the images that may have a duplicate, whether no others are tied).

    Images with possible duplicates are left to the caller, to compare with all.
    """
    n, largest = panel.num_images, float(panel.squared_norms_N.max())
    mean_square = float(panel.squared_norms_N.mean())
    found = nearest(panel, 1, cosine=False)
    nearest_N = found.key_V[np.searchsorted(found.image_V, np.arange(n))]
    least_N = panel.squared_norms_N + 2 * largest * (nearest_N - found.margin_N)
    doubtful_N = least_N <= _DUPLICATE * mean_square
    sure = found.of(~doubtful_N[found.image_V])
    again_V = counts(sure, n)[sure.image_V] > 1
    image_W, other_W = sure.image_V[again_V], sure.other_V[again_V]
    squared_W = panel.squared_norms_N[image_W] + panel.squared_norms_N[other_W]
    squared_W -= 2 * inner_products(panel, image_W, other_W)
    least_N = np.full(n, np.inf)
    np.minimum.at(least_N, image_W, squared_W)
    kept_V = ~again_V
    kept_V[again_V] = squared_W <= least_N[image_W] + _TIE * mean_square
    near = sure.of(kept_V)
    answers_N = _majority(near.image_V, panel.labels_N[near.other_V], panel.labels_N, panel.num_classes)
    right_N[~doubtful_N] = answers_N[~doubtful_N]
    return np.flatnonzero(doubtful_N), len(near.image_V) == n - int(doubtful_N.sum())


def _squared_distances(panel: Panel, images_I: _Indices) -> Iterator[tuple[_Indices, _Matrix]]:
    """Yield (some of the images, their squared distances to all)."""
    squared_N = panel.squared_norms_N
    block = max(1, _BLOCK_ENTRIES // panel.num_images)
    for start in range(0, len(images_I), block):
        images_B = images_I[start : start + block]
        squared_BN = panel.gram_rows(images_B) * -2.0
        squared_BN += squared_N
        squared_BN += squared_N[images_B, None]
        yield images_B, np.maximum(squared_BN, 0.0, out=squared_BN)


def _majority(
    row_V: NDArray[np.intp], label_V: NDArray[np.intp], labels_B: NDArray[np.intp], classes: int
) -> NDArray[np.bool_]:
    """Return the rows whose own class has more votes than each other."""
    votes_BC = np.bincount(row_V * classes + label_V, minlength=len(labels_B) * classes).reshape(-1, classes)
    rows_B = np.arange(len(labels_B))
    own_B = votes_BC[rows_B, labels_B]
    votes_BC[rows_B, labels_B] = -1
    return np.asarray((own_B > 0) & (own_B > votes_BC.max(axis=1)))
