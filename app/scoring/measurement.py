"""From a score's name and arrays to its result.

Legend: N images, D feature dimensions, Z source classes.
"""

import importlib
import math

import numpy as np
from numpy.typing import ArrayLike

from app.domain.errors import EvaluationFailed
from app.scoring.contract import Result, Score
from app.scoring.panel import Panel
from app.scoring.registry import find


def compute(
    name: str, features_ND: ArrayLike, labels_N: ArrayLike, *, source_probabilities: ArrayLike | None = None
) -> Result:
    """Return one score of one feature matrix.

    Args:
        name: a name in ``registry.SCORES``.
        features_ND: real numbers of any precision; computed in float64, never changed.
        labels_N: the class of each row, as numbers or strings, gaps allowed.
        source_probabilities: (N, Z), the pretrained classifier's probabilities, for scores that need the head.

    Raises:
        BadRequest: ``unknown_score``; the arrays are refused as ``Panel`` says.
        EvaluationFailed: the score is not defined on these arrays.
    """
    score = find(name)
    return _measure(score, Panel(features_ND, labels_N, source_probabilities=source_probabilities))


def measure(name: str, panel: Panel) -> Result:
    """Return one score of a panel; scores measured on one panel share its decompositions.

    Raises:
        BadRequest: ``unknown_score``.
        EvaluationFailed: the score is not defined on this panel.
    """
    return _measure(find(name), panel)


def _measure(score: Score, panel: Panel) -> Result:
    if score.needs_head and panel.source_probabilities_NZ is None:
        raise EvaluationFailed(
            "source_head_required",
            f"The score {score.name} needs the classifier a model was pretrained with, and this model has none.",
            param=score.name,
            hint="Leave this score out, or choose models that come with their head.",
        )
    module, function = score.implementation.split(":")
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        result: Result = getattr(importlib.import_module(module), function)(panel)
    if not math.isfinite(result.value) or (result.stderr is not None and not math.isfinite(result.stderr)):
        raise EvaluationFailed(
            "score_not_finite",
            f"The score {score.name} came out as {result.value} (standard error {result.stderr}).",
            param=score.name,
            hint="Please report this with the model and the data set: every accepted input should give a finite value.",
        )
    return result
