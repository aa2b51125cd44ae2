"""What is stored, and shown, of one score of one model."""

from typing import Any

from app.domain.errors import EvaluationFailed
from app.scoring import Panel, Result, Score, nulls
from app.scoring.measurement import measure_score

_PERMUTATIONS = 5


def measured(score: Score, panel: Panel) -> dict[str, Any]:
    """Return a score with the value of shuffled labels; one that is not defined here says why, and spoils no other."""
    try:
        result = measure_score(score, panel)
        null = None
        if "labels" in score.inputs:
            null = nulls.of(score, panel, result, permutations=_PERMUTATIONS)
    except EvaluationFailed as error:
        return failed(error)
    return as_dict(result, null)


def failed(error: EvaluationFailed) -> dict[str, Any]:
    """Return a score that is not defined here, as it is stored."""
    return {"value": None, "stderr": None, "null": None, "warnings": [], "error": error.as_dict()}


def as_dict(result: Result, null: nulls.Null | None = None) -> dict[str, Any]:
    """Return a score as it is stored."""
    shuffled = null and {"mean": null.mean, "origin": null.origin}
    return {
        "value": result.value,
        "stderr": result.stderr,
        "null": shuffled,
        "warnings": list(result.warnings),
        "error": None,
    }
