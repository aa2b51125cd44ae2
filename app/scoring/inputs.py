"""What the scores accept, checked in one place.

Legend: N images, D feature dimensions, C classes, Z source classes.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.domain.errors import EvaluationFailed

_PROBABILITY_TOLERANCE = 1e-2  # a softmax in float16 over 1000 classes sums to one within this


def checked_features(features_ND: ArrayLike) -> tuple[NDArray[np.float64], float]:
    """Return (features_ND / scale in float64, scale), scale being the power of two that brings the largest below one.

    Dividing by a power of two loses nothing, and squares of what is left neither overflow nor vanish.

    Raises:
        EvaluationFailed: ``invalid_features`` (not a numeric matrix) or ``non_finite_features`` (NaN or infinity).
    """
    raw_ND = np.asarray(features_ND)
    if raw_ND.ndim != 2 or raw_ND.shape[1] == 0 or raw_ND.dtype.kind not in "fiub":
        raise EvaluationFailed(
            "invalid_features",
            f"Features must be a matrix of real numbers, images x dimensions; got {raw_ND.dtype} of {raw_ND.shape}.",
            param="features",
            hint="Check which layer of the model the features come from.",
        )
    finite_ND = np.isfinite(raw_ND)
    if not finite_ND.all():
        row, column = np.argwhere(~finite_ND)[0]
        raise EvaluationFailed(
            "non_finite_features",
            f"{np.count_nonzero(~finite_ND)} of {raw_ND.size} feature values are NaN or infinite, "
            f"the first in image {row}, dimension {column}.",
            param="features",
            hint="Run the model in float32: half precision overflows in some networks.",
        )
    scaled_ND = raw_ND.astype(np.float64)
    _, exponent = np.frexp(np.abs(scaled_ND).max(initial=0.0))
    np.ldexp(scaled_ND, -exponent, out=scaled_ND)
    return scaled_ND, float(np.ldexp(1.0, min(int(exponent), 1023)))


def checked_labels(labels_N: ArrayLike, images: int) -> tuple[NDArray[np.intp], int]:
    """Return (labels compacted to 0..C-1 in sorted order, C).

    Raises:
        EvaluationFailed: ``invalid_labels``, ``too_few_images`` (fewer than 3) or ``too_few_classes`` (fewer than 2).
    """
    raw_N = np.asarray(labels_N)
    problem = None
    if raw_N.shape != (images,):
        problem = f"expected one label for each of {images} images, got an array of shape {raw_N.shape}"
    elif raw_N.dtype.kind == "f" and not np.isfinite(raw_N).all():
        problem = "some labels are NaN or infinite"
    elif raw_N.dtype.kind == "O" and any(label is None or label != label for label in raw_N):
        problem = "some labels are missing"
    if problem is None:
        try:
            classes_C, compact_N = np.unique(raw_N, return_inverse=True)
        except TypeError:
            problem = "labels of different types cannot be compared"
    if problem is not None:
        raise EvaluationFailed(
            "invalid_labels", f"Labels: {problem}.", param="labels", hint="Give every image a class."
        )
    if images < 3:
        raise EvaluationFailed(
            "too_few_images",
            f"A score needs at least 3 images; there are {images}.",
            param="labels",
            hint="Upload more images.",
        )
    if len(classes_C) < 2:
        raise EvaluationFailed(
            "too_few_classes",
            f"A score compares classes; all {images} images have the same label.",
            param="labels",
            hint="Upload images of at least two classes.",
        )
    return compact_N.reshape(-1), len(classes_C)


def checked_probabilities(probabilities_NZ: ArrayLike, images: int) -> NDArray[np.float64]:
    """Return the source classifier's probabilities in float64, each row summing to one.

    Raises:
        EvaluationFailed: ``invalid_source_probabilities``; logits are refused, not guessed at.
    """
    raw_NZ = np.asarray(probabilities_NZ)
    problem = None
    if raw_NZ.ndim != 2 or raw_NZ.shape[0] != images or raw_NZ.shape[1] == 0 or raw_NZ.dtype.kind not in "fiub":
        problem = f"expected a matrix of real numbers with {images} rows, got {raw_NZ.dtype} of {raw_NZ.shape}"
    else:
        probabilities = raw_NZ.astype(np.float64)
        if not np.isfinite(probabilities).all() or (probabilities < 0).any():
            problem = "some are negative, NaN or infinite"
        elif np.abs(probabilities.sum(axis=1) - 1).max(initial=0.0) > _PROBABILITY_TOLERANCE:
            problem = "some rows do not sum to one"
    if problem is not None:
        raise EvaluationFailed(
            "invalid_source_probabilities",
            f"Source probabilities: {problem}.",
            param="source_probabilities",
            hint="Pass the softmax of the source classifier's logits.",
        )
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))
