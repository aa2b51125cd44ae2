"""k nearest neighbours, leave-one-out.

Legend: N images, C classes, B images of a block.
"""

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import EvaluationFailed
from app.domain.ranking import accuracy_stderr
from app.scoring.contract import Result
from app.scoring.panel import Panel

MAX_NEIGHBOURS = 5
_BLOCK_ENTRIES = 8_000_000  # similarities held at a time: 64 MB
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
    held_out_N = panel.counts_C[panel.labels_N] > 1
    if not held_out_N.any():
        raise EvaluationFailed(
            "no_held_out_images",
            f"Each of the {panel.num_classes} classes has a single image, so no prediction can be checked.",
            param="labels",
            hint="Upload at least two images for some of the classes.",
        )
    neighbours = int(np.clip(np.median(panel.counts_C) - 1, 1, MAX_NEIGHBOURS))
    right_N = np.zeros(panel.num_images, dtype=bool)
    duplicates = False
    block = max(1, _BLOCK_ENTRIES // panel.num_images)
    for start in range(0, panel.num_images, block):
        stop = min(start + block, panel.num_images)
        similarity_BN, same_BN = _similarities(panel, start, stop)
        duplicates |= int(same_BN.sum()) > stop - start
        right_N[start:stop] = _vote(similarity_BN, panel.labels_N, panel.num_classes, start, neighbours)
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


def _similarities(panel: Panel, start: int, stop: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return (cosine similarities, -inf for an image itself and its duplicates; where those are)."""
    gram_BN = panel.gram_rows(start, stop)
    squared_N = panel.squared_norms_N
    distance_BN = squared_N[start:stop, None] + squared_N - 2 * gram_BN
    same_BN = distance_BN <= _DUPLICATE * squared_N.mean()
    same_BN[np.arange(stop - start), np.arange(start, stop)] = True
    length_N = np.sqrt(squared_N)
    inverse_N = np.divide(1.0, length_N, out=np.zeros_like(length_N), where=length_N > 0)
    similarity_BN = gram_BN * inverse_N[start:stop, None] * inverse_N
    similarity_BN[same_BN] = -np.inf
    return similarity_BN, same_BN


def _vote(
    similarity_BN: NDArray[np.float64], labels_N: NDArray[np.intp], classes: int, start: int, neighbours: int
) -> NDArray[np.bool_]:
    """Return which images of the block get their own class from their neighbours."""
    rows, images = similarity_BN.shape
    last_B = np.partition(similarity_BN, images - neighbours, axis=1)[:, images - neighbours]
    # Fewer than k neighbours are left when the rest are duplicates: then all that are left vote.
    last_B = np.where(np.isneginf(last_B), -2.0, last_B)
    row_V, image_V = np.nonzero(similarity_BN >= last_B[:, None] - _TIE)
    similarity_V = similarity_BN[row_V, image_V]
    nearer_V = similarity_V > last_B[row_V] + _TIE
    nearer_B = np.bincount(row_V[nearer_V], minlength=rows)
    tied_B = np.bincount(row_V[~nearer_V], minlength=rows)
    weight_V = np.where(nearer_V, 1.0, (neighbours - nearer_B[row_V]) / np.maximum(tied_B[row_V], 1))
    cell_V = row_V * classes + labels_N[image_V]
    votes_BC = np.bincount(cell_V, weight_V, minlength=rows * classes).reshape(rows, classes)
    summed_BC = np.bincount(cell_V, weight_V * similarity_V, minlength=rows * classes).reshape(rows, classes)
    leading_BC = (votes_BC >= votes_BC.max(axis=1, keepdims=True) - _TIE) & (votes_BC > 0)
    summed_BC = np.where(leading_BC, summed_BC, -np.inf)
    winning_BC = leading_BC & (summed_BC >= summed_BC.max(axis=1, keepdims=True) - _TIE)
    own_B = winning_BC[np.arange(rows), labels_N[start : start + rows]]
    return np.asarray(own_B & (winning_BC.sum(axis=1) == 1))
