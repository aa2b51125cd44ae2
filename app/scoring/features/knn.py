"""k nearest neighbours, leave-one-out.

Legend: N images, C classes, B images of a block, V pairs of an image and one of its neighbours, W some of them, I
images with possible duplicates.
"""

import numpy as np
from numpy.typing import NDArray

from app.domain.ranking import accuracy_stderr
from app.scoring.contract import Result
from app.scoring.features.held_out import held_out
from app.scoring.features.neighbours import counts, inner_products, nearest
from app.scoring.panel import Panel

_Indices = NDArray[np.intp]
MAX_NEIGHBOURS = 5
_BLOCK_ENTRIES = 1_000_000  # similarities held at a time: 8 MB
_TIE = 1e-10  # similarities closer than this are equal: rounding must not decide
_DUPLICATE = 1e-8  # squared distance, relative to the mean squared length, below which two images are one


def knn(panel: Panel) -> Result:
    """Return the share of images that their nearest neighbours classify right.

    Neighbours are the k images of the largest cosine similarity after the mean of all features is removed. k is 5, or
    the median class size less one where that is smaller. Images with the same features as the one asked about are left
    out with it: a duplicate would give the answer away. Neighbours tied for the last place share it; the class with
    most votes wins, then the one of larger summed similarity, and an image still tied counts as wrong. So the order of
    images and classes has no influence.

    Raises:
        EvaluationFailed: ``no_held_out_images``: no class has two images.
    """
    held_out_N = held_out(panel)
    neighbours = int(np.clip(np.median(panel.counts_C) - 1, 1, MAX_NEIGHBOURS))
    right_N = np.zeros(panel.num_images, dtype=bool)
    in_full_I = np.arange(panel.num_images)
    if not panel.gram_known and not panel.constant:
        in_full_I = _screened_votes(panel, neighbours, right_N)
    duplicates = False
    block = max(1, _BLOCK_ENTRIES // panel.num_images)
    for start in range(0, len(in_full_I), block):
        images_B = in_full_I[start : start + block]
        similarity_BN, same_BN = _similarities(panel, images_B)
        duplicates |= int(same_BN.sum()) > len(images_B)
        row_V, image_V = _near(similarity_BN, neighbours)
        right_N[images_B] = _vote(
            row_V, panel.labels_N[image_V], similarity_BN[row_V, image_V], panel.labels_N[images_B], neighbours
        )
    right_N &= held_out_N
    total, right = int(held_out_N.sum()), int(right_N.sum())
    warnings = (
        ("constant_features",) * panel.constant
        + ("duplicate_features",) * (duplicates and not panel.constant)
        + ("singleton_class",) * bool((panel.counts_C == 1).any())
    )
    return Result(
        value=right / total,
        stderr=accuracy_stderr(right, total),
        warnings=warnings,
        per_image_N=right_N,
        held_out_N=held_out_N,
    )


def _screened_votes(panel: Panel, neighbours: int, right_N: NDArray[np.bool_]) -> _Indices:
    """Fill in which images are classified right where that is certain; return those that all have to be compared with.

    Images that may have a duplicate, or are at the mean of all, are left to the caller.
    """
    length_N = np.sqrt(panel.squared_norms_N)
    if not length_N.all():
        return np.arange(panel.num_images)
    found = nearest(panel, neighbours, cosine=True)
    count_N = counts(found, panel.num_images)
    nearest_N = -found.key_V[np.searchsorted(found.image_V, np.arange(panel.num_images))]
    # A squared distance is no less than 2 |x| |y| (1 - cosine).
    slack_N = _DUPLICATE * float(panel.squared_norms_N.mean()) / (2 * length_N * length_N.min())
    doubtful_N = nearest_N + found.margin_N >= 1 - slack_N
    sure = found.of(~doubtful_N[found.image_V])
    again_V = count_N[sure.image_V] > neighbours
    again_V |= _undecided(sure.image_V, panel.labels_N[sure.other_V], panel.num_images)[sure.image_V]
    similarity_V = -sure.key_V
    image_W, other_W = sure.image_V[again_V], sure.other_V[again_V]
    similarity_V[again_V] = inner_products(panel, image_W, other_W) / (length_N[image_W] * length_N[other_W])
    images_B, row_V = np.unique(sure.image_V, return_inverse=True)
    right_N[images_B] = _vote(
        row_V.reshape(-1), panel.labels_N[sure.other_V], similarity_V, panel.labels_N[images_B], neighbours
    )
    return np.flatnonzero(doubtful_N)


def _undecided(image_V: _Indices, label_V: _Indices, images: int) -> NDArray[np.bool_]:
    """Return the images for which two classes have most votes."""
    classes = int(label_V.max(initial=0)) + 1
    votes_NC = np.bincount(image_V * classes + label_V, minlength=images * classes).reshape(images, classes)
    return np.asarray((votes_NC == votes_NC.max(axis=1, keepdims=True)).sum(axis=1) > 1)


def _similarities(panel: Panel, images_B: _Indices) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return (cosine similarities, -inf for an image itself and its duplicates; where those are)."""
    gram_BN = panel.gram_rows(images_B)
    squared_N = panel.squared_norms_N
    distance_BN = squared_N[images_B, None] + squared_N - 2 * gram_BN
    same_BN = distance_BN <= _DUPLICATE * squared_N.mean()
    same_BN[np.arange(len(images_B)), images_B] = True
    length_N = np.sqrt(squared_N)
    inverse_N = np.divide(1.0, length_N, out=np.zeros_like(length_N), where=length_N > 0)
    similarity_BN = gram_BN * inverse_N[images_B, None]
    similarity_BN *= inverse_N
    similarity_BN[same_BN] = -np.inf
    return similarity_BN, same_BN


def _near(similarity_BN: NDArray[np.float64], neighbours: int) -> tuple[_Indices, _Indices]:
    """Return (row, image) of all that are as similar as the last of the nearest."""
    images = similarity_BN.shape[1]
    last_B = np.partition(similarity_BN, images - neighbours, axis=1)[:, images - neighbours]
    # Fewer than k neighbours are left when the rest are duplicates: then all that are left vote.
    last_B = np.where(np.isneginf(last_B), -2.0, last_B)
    row_V, image_V = np.nonzero(similarity_BN >= last_B[:, None] - _TIE)
    return row_V, image_V


def _vote(
    row_V: _Indices, label_V: _Indices, similarity_V: NDArray[np.float64], labels_B: _Indices, neighbours: int
) -> NDArray[np.bool_]:
    """Return which images get their own class from the nearest of those given, which are in the order of the rows."""
    rows, classes = len(labels_B), int(max(label_V.max(initial=0), labels_B.max(initial=0))) + 1
    order_V = np.lexsort((-similarity_V, row_V))
    first_B = np.searchsorted(row_V, np.arange(rows))
    count_B = np.bincount(row_V, minlength=rows)
    last_B = np.full(rows, -2.0)
    enough_B = count_B >= neighbours
    last_B[enough_B] = similarity_V[order_V[first_B[enough_B] + neighbours - 1]]
    kept_V = similarity_V >= last_B[row_V] - _TIE
    row_V, label_V, similarity_V = row_V[kept_V], label_V[kept_V], similarity_V[kept_V]
    nearer_V = similarity_V > last_B[row_V] + _TIE
    nearer_B = np.bincount(row_V[nearer_V], minlength=rows)
    tied_B = np.bincount(row_V[~nearer_V], minlength=rows)
    weight_V = np.where(nearer_V, 1.0, (neighbours - nearer_B[row_V]) / np.maximum(tied_B[row_V], 1))
    cell_V = row_V * classes + label_V
    votes_BC = np.bincount(cell_V, weight_V, minlength=rows * classes).reshape(rows, classes)
    summed_BC = np.bincount(cell_V, weight_V * similarity_V, minlength=rows * classes).reshape(rows, classes)
    leading_BC = (votes_BC >= votes_BC.max(axis=1, keepdims=True) - _TIE) & (votes_BC > 0)
    summed_BC = np.where(leading_BC, summed_BC, -np.inf)
    winning_BC = leading_BC & (summed_BC >= summed_BC.max(axis=1, keepdims=True) - _TIE)
    own_B = winning_BC[np.arange(rows), labels_B]
    return np.asarray(own_B & (winning_BC.sum(axis=1) == 1))
