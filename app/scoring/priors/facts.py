"""What is known of a model before it has seen an image."""

import math

from app.domain.errors import EvaluationFailed
from app.scoring.contract import Result
from app.scoring.panel import Panel

_SAID = {
    "parameters": "how many parameters the model has",
    "flops": "how many operations the model takes for an image",
    "source_accuracy": "how accurate the model is on the data it was pretrained on",
}


def parameters(panel: Panel) -> Result:
    """Return log10 of the number of parameters.

    Raises:
        EvaluationFailed: ``fact_unknown``.
    """
    return Result(value=math.log10(_fact(panel, "parameters", above_zero=True)))


def flops(panel: Panel) -> Result:
    """Return log10 of the floating-point operations for one image.

    Raises:
        EvaluationFailed: ``fact_unknown``.
    """
    return Result(value=math.log10(_fact(panel, "flops", above_zero=True)))


def source_accuracy(panel: Panel) -> Result:
    """Return the accuracy on the source data, in the unit in which it was given.

    Raises:
        EvaluationFailed: ``fact_unknown``.
    """
    return Result(value=_fact(panel, "source_accuracy"))


def _fact(panel: Panel, name: str, *, above_zero: bool = False) -> float:
    if name not in panel.facts or (above_zero and panel.facts[name] == 0):
        raise EvaluationFailed(
            "fact_unknown",
            f"It is not known {_SAID[name]}.",
            param=name,
            hint=f"Give the model's {name} as a fact, or leave this score out.",
        )
    return panel.facts[name]
