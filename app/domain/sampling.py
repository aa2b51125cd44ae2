"""Which images to evaluate when a data set has more than the limit.

Legend: N images, C classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.domain.errors import BadRequest


def stratified_sample(labels_N: ArrayLike, keys: Sequence[str], limit: int) -> NDArray[np.intp]:
    """Return the sorted row numbers of a class-balanced subset of at most ``limit`` images.

    Every class gives the same number of images as long as it has them (water-filling); what is left over goes, one
    image each, to the first classes in sorted order that have more. Within a class the images of the smallest keys are
    taken. So the choice is deterministic, does not depend on the order of rows, and grows with the limit: a sample
    contains every smaller one.

    Args:
        labels_N: the class of each image.
        keys: a stable hash of each image's content, evenly spread; images of equal keys are told apart by row.
        limit: how many images at most.

    Raises:
        BadRequest: ``invalid_limit``: the limit is below one.
        ValueError: there is not one key per label.
    """
    if limit < 1:
        raise BadRequest(
            "invalid_limit", f"A sample of {limit} images cannot be drawn.", param="limit", hint="Allow at least one."
        )
    classes_C, class_N, counts_C = np.unique(np.asarray(labels_N), return_inverse=True, return_counts=True)
    class_N = class_N.reshape(-1)
    if len(keys) != len(class_N):
        raise ValueError(f"{len(keys)} keys for {len(class_N)} labels")
    quota_C = _water_filled(counts_C, limit)
    taken = []
    for index in range(len(classes_C)):
        rows = np.flatnonzero(class_N == index)
        taken += sorted(rows.tolist(), key=lambda row: (keys[row], row))[: quota_C[index]]
    return np.sort(np.array(taken, dtype=np.intp))


def _water_filled(counts_C: NDArray[np.intp], limit: int) -> NDArray[np.intp]:
    """Return how many images each class gives: all it has, or the common level, which differs by at most one."""
    remaining = min(limit, int(counts_C.sum()))
    quota_C = np.zeros_like(counts_C)
    while remaining:
        open_C = np.flatnonzero(counts_C > quota_C)
        step = remaining // len(open_C)
        if step == 0:
            quota_C[open_C[:remaining]] += 1
            break
        given_C = np.minimum(counts_C[open_C] - quota_C[open_C], step)
        quota_C[open_C] += given_C
        remaining -= int(given_C.sum())
    return quota_C
