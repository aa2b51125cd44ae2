"""What counts as trained, and when a simulated training gets there.

Legend: S seeds, T steps and the start.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import BadRequest
from app.forecasting.curve import Curve, smoothed

Kind = Literal["loss", "fraction_of_initial", "fraction_of_drop", "accuracy"]
_DEFINITIONS: dict[Kind, str] = {
    "loss": "the first step after which the mean training loss is at most {value:g}",
    "fraction_of_initial": "the first step after which the mean training loss is at most {value:g} of the first one",
    "fraction_of_drop": (
        "the first step after which the mean training loss is above the last one by at most {value:g} of "
        "the drop from the start to the last step"
    ),
    "accuracy": "the first step after which the share of training images classified correctly is at least {value:g}",
}
BAND = 0.8
"""Share of the seeds between the low and the high time."""


@dataclass(frozen=True)
class Target:
    """A level that training has to reach.

    Attributes:
        kind: ``loss``: an absolute mean loss. ``fraction_of_initial``: that share of the loss at the start.
            ``fraction_of_drop``: within that share of L_0 - L_T of the loss L_T at the last step, the definition behind
            the figures of arXiv:2008.12478 with its unstated unit filled in; while the loss still falls at T it says
            more of T than of the training. ``accuracy``: share of the training images.
        value: the level.
    """

    kind: Kind = "fraction_of_initial"
    value: float = 0.1

    def __post_init__(self) -> None:
        """Refuse levels that mean nothing.

        Raises:
            BadRequest: ``invalid_target``, ``param`` is the field.
        """
        if self.kind not in _DEFINITIONS:
            raise BadRequest(
                "invalid_target",
                f"{self.kind!r} is no target",
                param="kind",
                hint="Use one of " + ", ".join(_DEFINITIONS),
            )
        below = 1.0 if self.kind in ("fraction_of_initial", "fraction_of_drop") else math.inf
        highest = 1.0 if self.kind == "accuracy" else math.inf
        if not (0 < self.value < below and self.value <= highest):
            raise BadRequest(
                "invalid_target",
                f"{self.value!r} cannot be reached as {self.kind}",
                param="value",
                hint="Give a number above 0; a fraction is below 1, an accuracy at most 1.",
            )

    @property
    def definition(self) -> str:
        """The target as a sentence."""
        return _DEFINITIONS[self.kind].format(value=self.value)


@dataclass(frozen=True)
class TimeToTarget:
    """When the seeds reached a target.

    Attributes:
        steps: median over seeds; None when the median seed does not get there.
        low: the step at the low end of the band over seeds; None as well.
        high: at the high end; None when a seed there does not get there.
        level: the loss or accuracy to reach.
        best: the lowest smoothed loss, or highest accuracy, that the median seed gets to.
    """

    steps: float | None
    low: float | None
    high: float | None
    level: float
    best: float


def time_to_target(curve: Curve, target: Target) -> TimeToTarget:
    """Return the first step at which the smoothed curve of each seed is at the target, over seeds.

    The curve has every step, so a seed's time is a whole number and nothing is interpolated.
    """
    falling = target.kind != "accuracy"
    values_ST = smoothed(curve.loss_ST if falling else curve.accuracy_ST)
    level_S = _levels(values_ST, target)
    reached_ST = values_ST <= level_S[:, None] if falling else values_ST >= level_S[:, None]
    time_S = np.where(reached_ST.any(axis=1), reached_ST.argmax(axis=1), np.inf)
    best_S = values_ST.min(axis=1) if falling else values_ST.max(axis=1)
    outside = (1 - BAND) / 2
    return TimeToTarget(
        steps=_finite(np.quantile(time_S, 0.5, method="higher")),
        low=_finite(np.quantile(time_S, outside, method="lower")),
        high=_finite(np.quantile(time_S, 1 - outside, method="higher")),
        level=float(np.median(level_S)),
        best=float(np.median(best_S)),
    )


def _levels(values_ST: NDArray[np.float64], target: Target) -> NDArray[np.float64]:
    first_S, last_S = values_ST[:, 0], values_ST[:, -1]
    if target.kind == "fraction_of_initial":
        return target.value * first_S
    if target.kind == "fraction_of_drop":
        return last_S + target.value * (first_S - last_S)
    return np.full(len(values_ST), target.value)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
