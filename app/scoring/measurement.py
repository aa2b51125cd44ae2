"""From a score's name and arrays to its result.

Legend: N images, D feature dimensions, Z source classes.
"""

import dataclasses
import importlib
import math
import numbers
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from app.domain.errors import EvaluationFailed
from app.domain.ranking import accuracy_stderr
from app.domain.resampling import effective_number, stratified_stderr
from app.scoring.contract import Input, Result, Score
from app.scoring.gradient_kernels import GradientKernels
from app.scoring.inputs import SourceClasses
from app.scoring.panel import Panel
from app.scoring.registry import find

_MISSING: dict[Input, dict[str, str]] = {
    "gradients": {
        "code": "gradients_required",
        "what": "gradients of the model, and there are none",
        "hint": "Pass them as gradients, leave this score out, or choose models that can be differentiated.",
    },
    "source_probabilities": {
        "code": "source_head_required",
        "what": "the classifier a model was pretrained with, and this model has none",
        "hint": "Leave this score out, or choose models that come with their head.",
    },
    "reference_features": {
        "code": "reference_required",
        "what": "another model's features of the same images to compare with",
        "hint": "Pass them as reference_features, or leave this score out.",
    },
    "source_classes": {
        "code": "source_classes_required",
        "what": "class means of the data a model was pretrained on, and this model's card has none",
        "hint": "Leave this score out, or choose models whose cards have them.",
    },
    "facts": {
        "code": "fact_unknown",
        "what": "facts of the model that are known before it has seen an image, and none was given",
        "hint": "Give parameters, flops or source_accuracy as facts, or leave this score out.",
    },
}


ARRAYS = ("influence_N", "per_image_N", "predicted_N", "held_out_N", "log_likelihood_N")
"""The arrays that a result may have."""


def compute(
    name: str,
    features_ND: ArrayLike,
    labels_N: ArrayLike,
    *,
    gradients: GradientKernels | ArrayLike | None = None,
    source_probabilities: ArrayLike | None = None,
    reference_features: ArrayLike | None = None,
    source_classes: SourceClasses | None = None,
    facts: Mapping[str, float] | None = None,
    units: ArrayLike | None = None,
    memory_bytes: int | None = None,
) -> Result:
    """Return one score of one feature matrix.

    Args:
        name: a name in ``registry.SCORES``.
        features_ND: real numbers of any precision; computed in float64, never changed.
        labels_N: the class of each row, as numbers or strings, gaps allowed.
        gradients: (P, N, S), gradients of P scalars of the features by the model's parameters, or sketches of them; or
            their kernels.
        source_probabilities: (N, Z), the pretrained classifier's probabilities, for scores that need the head.
        reference_features: (N, R), another model's features of the same images, for scores that compare with them.
        source_classes: class means of the source data, for scores of the distance to it.
        facts: ``parameters``, ``flops``, ``source_accuracy``, for the priors.
        units: (N,), the same number for near-duplicate images, which standard errors then count as one.
        memory_bytes: how much matrices of the size of the features may take together, see ``Panel``.

    Raises:
        BadRequest: ``unknown_score``.
        EvaluationFailed: the arrays are refused as ``Panel`` says; an input the score needs is missing; or the score
            is not defined on these arrays.
    """
    find(name)
    panel = Panel(
        features_ND,
        labels_N,
        gradients=gradients,
        source_probabilities=source_probabilities,
        reference_features=reference_features,
        source_classes=source_classes,
        facts=facts,
        units=units,
        memory_bytes=memory_bytes,
    )
    return measure(name, panel)


def measure(name: str, panel: Panel) -> Result:
    """Return one score of a panel; scores measured on one panel share its decompositions.

    Raises:
        BadRequest: ``unknown_score``.
        EvaluationFailed: an input is missing, the score is not defined on this panel, or it does not return a result.
    """
    return measure_score(find(name), panel)


def measure_score(score: Score, panel: Panel) -> Result:
    """Return a score of a panel, by its statement; see ``measure``."""
    _check_inputs(score, panel)
    module, function = score.implementation.split(":")
    implementation = getattr(importlib.import_module(module), function)
    try:
        with np.errstate(divide="raise", over="raise", invalid="raise"):
            result: Result = implementation(panel)
    except FloatingPointError as error:
        raise _not_finite(score, f"stopped where numpy would go on with NaN or infinity: {error}") from error
    problem = _problem(result, panel.num_images)
    if problem:
        raise EvaluationFailed(
            "invalid_result",
            f"The score {score.name} returned {problem}",
            param=score.name,
            hint="See docs/own-score.md for a score that works.",
        )
    result = dataclasses.replace(result, stderr=_stderr(result, panel))
    if not all(number is None or math.isfinite(number) for number in (result.value, result.stderr, result.null_value)):
        raise _not_finite(score, f"came out as {result.value} (standard error {result.stderr})")
    return result


def can_measure(score: Score, panel: Panel) -> bool:
    """Tell whether a panel has every input that a score needs."""
    return not score.zoo_relative and _missing(score, panel) is None


def zoo_required(score: Score) -> EvaluationFailed:
    """Return the refusal to compute a zoo-relative score of fewer than two candidates."""
    return EvaluationFailed(
        "zoo_required",
        f"The score {score.name} compares all candidates with each other: one model alone has no value.",
        param=score.name,
        hint="Pass the features of at least two candidates to app.scoring.compare, or look at the parts: "
        f"{', '.join(name for name, _ in score.combines)}.",
    )


def _not_finite(score: Score, outcome: str) -> EvaluationFailed:
    return EvaluationFailed(
        "score_not_finite",
        f"The score {score.name} {outcome}.",
        param=score.name,
        hint="Please report this with the model and the data set: every accepted input should give a finite value.",
    )


def _problem(result: object, images: int) -> str:
    """Return what is wrong with the form of what a score's function returned; empty if nothing is."""
    if not isinstance(result, Result):
        article = "an" if type(result).__name__[0] in "aeiou" else "a"
        return f"{article} {type(result).__name__}; return a Result(value=...)."
    for name in ("value", "stderr", "null_value"):
        number = getattr(result, name)
        if not isinstance(number, numbers.Real) and (number is not None or name == "value"):
            return f"a Result whose {name} is of type {type(number).__name__}, not a number."
    for name in ARRAYS:
        array = getattr(result, name)
        if array is not None and not isinstance(array, np.ndarray):
            return f"a Result whose {name} is of type {type(array).__name__}, not a numpy array."
        if array is not None and array.shape != (images,):
            return f"a Result whose {name} has the shape {array.shape}; one number for each of {images} images is due."
    return ""


def _stderr(result: Result, panel: Panel) -> float | None:
    if result.stderr is None:
        known = result.influence_N
        return None if known is None else stratified_stderr(known, panel.labels_N, panel.units_N)
    if panel.units_N is None or result.per_image_N is None or result.held_out_N is None:
        return result.stderr
    # A share of images: near-duplicates are right or wrong together.
    independent = effective_number(panel.units_N[result.held_out_N])
    return accuracy_stderr(result.value * independent, independent)


def _check_inputs(score: Score, panel: Panel) -> None:
    if score.zoo_relative:
        raise zoo_required(score)
    missing = _missing(score, panel)
    if missing is not None:
        lacking = _MISSING[missing]
        message = f"The score {score.name} needs {lacking['what']}."
        raise EvaluationFailed(lacking["code"], message, param=score.name, hint=lacking["hint"])


def _missing(score: Score, panel: Panel) -> Input | None:
    return next((name for name in score.inputs if name not in panel.given), None)
