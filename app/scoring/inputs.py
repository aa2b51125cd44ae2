"""What the scores accept, checked in one place.

Legend: N images, D feature dimensions, C classes, Z source classes, R dimensions of a reference model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.domain.errors import EvaluationFailed

FACTS = ("parameters", "flops", "source_accuracy")
_Raw = NDArray[Any]  # of the caller's precision
_PROBABILITY_TOLERANCE = 1e-2  # a softmax in float16 over 1000 classes sums to one within this
_FARTHEST = 1e300  # times the largest feature: sums and distances of what is nearer do not overflow
_ARRAY_HINT = (
    "Pass a numpy array, or lists of equal length, without masked values; of a torch tensor "
    "tensor.detach().float().cpu().numpy()."
)


@dataclass(frozen=True, eq=False)
class SourceClasses:
    """What a model card keeps of the data the model was pretrained on.

    Attributes:
        means_ZD: mean features of every source class, by the model itself.
        weights_Z: number, or share, of images of every source class.
    """

    means_ZD: ArrayLike
    weights_Z: ArrayLike


def checked_features(features_ND: ArrayLike, param: str = "features") -> tuple[_Raw, float]:
    """Return (the features as they are, scale), scale being the power of two that brings the largest below one.

    Args:
        features_ND: real numbers.
        param: what they are called in a refusal.

    Raises:
        EvaluationFailed: ``invalid_features`` (not a numeric matrix) or ``non_finite_features`` (NaN or infinity).
    """
    raw_ND = _array(features_ND, "invalid_features", param)
    if raw_ND.ndim != 2 or raw_ND.shape[1] == 0 or raw_ND.dtype.kind not in "fiub":
        raise EvaluationFailed(
            "invalid_features",
            f"Features must be a matrix of real numbers, images x dimensions; got {raw_ND.dtype} of {raw_ND.shape}.",
            param=param,
            hint="Check which layer of the model the features come from.",
        )
    if raw_ND.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # what overflows is found below
            raw_ND = raw_ND.astype(np.float64)
    # The extremes are NaN or infinite if any value is: two passes without a mask as large as the features.
    largest = max(abs(float(raw_ND.max())), abs(float(raw_ND.min()))) if raw_ND.size else 0.0
    if not math.isfinite(largest):
        finite_ND = np.isfinite(raw_ND)
        row, column = np.argwhere(~finite_ND)[0]
        raise EvaluationFailed(
            "non_finite_features",
            f"{np.count_nonzero(~finite_ND)} of {raw_ND.size} feature values are NaN or infinite, "
            f"the first in image {row}, dimension {column}.",
            param=param,
            hint="Run the model in float32: half precision overflows in some networks.",
        )
    _, exponent = math.frexp(largest)
    return raw_ND, math.ldexp(1.0, min(exponent, 1023))


def scaled(raw_ND: _Raw, scale: float) -> NDArray[np.float64]:
    """Return features / scale in float64: dividing by a power of two loses nothing.

    Squares of what is left neither overflow nor vanish.
    """
    scaled_ND = raw_ND.astype(np.float64)
    if 1e-300 < scale < 1e300:
        scaled_ND *= 1.0 / scale
    else:  # the reciprocal is not a normal number
        np.ldexp(scaled_ND, 1 - math.frexp(scale)[1], out=scaled_ND)
    return scaled_ND


def checked_labels(labels_N: ArrayLike, images: int) -> tuple[NDArray[np.intp], int]:
    """Return (labels compacted to 0..C-1 in sorted order, C).

    Raises:
        EvaluationFailed: ``invalid_labels``, ``too_few_images`` (fewer than 3) or ``too_few_classes`` (fewer than 2).
    """
    raw_N = _array(labels_N, "invalid_labels", "labels")
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


def checked_probabilities(probabilities_NZ: ArrayLike, images: int) -> _Raw:
    """Return the source classifier's probabilities as they are.

    Raises:
        EvaluationFailed: ``invalid_source_probabilities``; logits are refused, not guessed at.
    """
    raw_NZ = _array(probabilities_NZ, "invalid_source_probabilities", "source_probabilities")
    problem = None
    if raw_NZ.ndim != 2 or raw_NZ.shape[0] != images or raw_NZ.shape[1] == 0 or raw_NZ.dtype.kind not in "fiub":
        problem = f"expected a matrix of real numbers with {images} rows, got {raw_NZ.dtype} of {raw_NZ.shape}"
    elif raw_NZ.size:
        if not raw_NZ.min() >= 0:  # nor is NaN
            problem = "some are negative or NaN"
        else:
            own = raw_NZ.dtype if raw_NZ.dtype in (np.float32, np.float64) else np.dtype(np.float32)
            with np.errstate(over="ignore", invalid="ignore"):
                sums_N = raw_NZ @ np.ones(
                    raw_NZ.shape[1], own
                )  # exact enough for the tolerance, in a fifth of the time
            if not np.abs(sums_N - 1).max() <= _PROBABILITY_TOLERANCE:  # nor is infinity
                problem = "some rows do not sum to one"
    if problem is not None:
        raise EvaluationFailed(
            "invalid_source_probabilities",
            f"Source probabilities: {problem}.",
            param="source_probabilities",
            hint="Pass the softmax of the source classifier's logits.",
        )
    return raw_NZ


def checked_source_classes(
    source: SourceClasses, dimensions: int, scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (the means of the source classes / scale, their weights, which sum to one).

    Args:
        source: means and weights.
        dimensions: of the features.
        scale: that of the features.

    Raises:
        EvaluationFailed: ``invalid_source_classes``.
    """
    if not isinstance(source, SourceClasses):
        raise EvaluationFailed(
            "invalid_source_classes",
            f"Source classes: expected SourceClasses(means_ZD, weights_Z), got {type(source).__name__}.",
            param="source_classes",
            hint="from app.scoring import SourceClasses",
        )
    means_ZD = _array(source.means_ZD, "invalid_source_classes", "source_classes")
    weights_Z = _array(source.weights_Z, "invalid_source_classes", "source_classes")
    scaled_ZD, problem = np.zeros((0, dimensions)), None
    if means_ZD.ndim != 2 or means_ZD.shape[1] != dimensions or len(means_ZD) == 0 or means_ZD.dtype.kind not in "fiub":
        problem = f"expected means of {dimensions} dimensions, got {means_ZD.dtype} of {means_ZD.shape}"
    elif weights_Z.shape != means_ZD.shape[:1] or weights_Z.dtype.kind not in "fiub":
        problem = f"expected one weight for each of {len(means_ZD)} classes, got {weights_Z.dtype} of {weights_Z.shape}"
    elif not np.isfinite(means_ZD).all():
        problem = "some means are NaN or infinite"
    elif not np.isfinite(weights_Z).all() or (weights_Z < 0).any() or not weights_Z.any():
        problem = "weights have to be finite and not negative, one of them above zero"
    else:
        with np.errstate(over="ignore"):
            scaled_ZD = scaled(means_ZD, scale)
        if not np.abs(scaled_ZD).max() <= _FARTHEST:
            problem = f"some means are more than {_FARTHEST:g} times as large as the largest feature"
    if problem is not None:
        raise EvaluationFailed(
            "invalid_source_classes",
            f"Source classes: {problem}.",
            param="source_classes",
            hint="Pass the mean features of each source class, as the same model computes them, and its image count.",
        )
    shares_Z = weights_Z.astype(np.float64)
    shares_Z /= shares_Z.max()  # so that the sum does not overflow
    return scaled_ZD, shares_Z / shares_Z.sum()


def checked_facts(facts: Mapping[str, float]) -> dict[str, float]:
    """Return what is known of a model, as floats: ``parameters``, ``flops``, ``source_accuracy``.

    Raises:
        EvaluationFailed: ``invalid_facts``: no mapping, an unknown name, or a value that is not a finite number.
    """
    if not isinstance(facts, Mapping):
        raise _invalid_facts(f"expected a mapping of names to numbers, got {type(facts).__name__}")
    known = {}
    for name, value in facts.items():
        try:
            known[name] = math.nan if isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError, OverflowError):
            known[name] = math.nan
        if name not in FACTS or not math.isfinite(known[name]) or known[name] < 0:
            raise _invalid_facts(f"{name!r} is {value!r}")
    return known


def _invalid_facts(problem: str) -> EvaluationFailed:
    return EvaluationFailed(
        "invalid_facts",
        f"Facts: {problem}.",
        param="facts",
        hint=f"Known facts are {', '.join(FACTS)}; each is a finite number that is not negative.",
    )


def checked_units(units_N: ArrayLike, images: int) -> NDArray[np.intp]:
    """Return the units as 0..G-1.

    Raises:
        EvaluationFailed: ``invalid_units``.
    """
    raw_N = _array(units_N, "invalid_units", "units")
    if raw_N.shape != (images,) or raw_N.dtype.kind not in "iu":
        raise EvaluationFailed(
            "invalid_units",
            f"Units: expected one whole number for each of {images} images, got {raw_N.dtype} of {raw_N.shape}.",
            param="units",
            hint="Give near-duplicate images the same number.",
        )
    return np.unique(raw_N, return_inverse=True)[1].reshape(-1)


def _array(given: ArrayLike, code: str, param: str) -> _Raw:
    """Return what was given as an array.

    Raises:
        EvaluationFailed: ``code``: it is none, such as lists of different lengths or a tensor that numpy cannot read.
    """
    if isinstance(given, np.ma.MaskedArray) and given.mask.any():
        raise EvaluationFailed(
            code,
            f"{given.mask.sum()} values of {param} are masked: they have no value to compute with.",
            param=param,
            hint=_ARRAY_HINT,
        )
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).rstrip(".")
        raise EvaluationFailed(
            code, f"numpy cannot read {param} as an array: {reason}.", param=param, hint=_ARRAY_HINT
        ) from error
