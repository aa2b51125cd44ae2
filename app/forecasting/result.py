"""What a forecast says.

Legend: T steps and the start.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]
Method = Literal["bilinear", "linear_probe", "frozen_kernel", "gradient_flow", "diffusion"]
Verdict = Literal["reached", "not_reached", "unstable"]

FEATURES_LEAP = "features_leap"

_POINTS = 200  # of a curve that is handed on


@dataclass(frozen=True, eq=False)
class ForecastCurve:
    """Median and band over seeds after each step (T), calibrated: 10 and 90 % of the seeds are below and above."""

    steps_T: NDArray[np.int64]
    loss_T: _Array
    low_T: _Array
    high_T: _Array
    accuracy_T: _Array

    def as_dict(self) -> dict[str, list[float] | list[int]]:
        """Return at most some 200 evenly spaced points, first and last among them, as JSON-ready lists."""
        places = np.unique(np.linspace(0, len(self.steps_T) - 1, _POINTS).round().astype(int))
        return {
            "steps": self.steps_T[places].tolist(),
            "loss": self.loss_T[places].tolist(),
            "low": self.low_T[places].tolist(),
            "high": self.high_T[places].tolist(),
            "accuracy": self.accuracy_T[places].tolist(),
        }


@dataclass(frozen=True, eq=False)
class Forecast:
    """What a fine-tuning is expected to do.

    Attributes:
        verdict: ``unstable``: the learning rate is above the limit, or the simulation blew up; no number is given.
        steps: to the target; None unless reached.
        interval: of the steps; from the spread of earlier forecasts, at least as wide as the seeds'.
        confidence: share of trainings that the interval shall hold; None where it rests on no measurement.
        seconds, seconds_interval: steps times the time of one.
        cost, cost_interval: in the unit of the price, per hour.
        level: loss or accuracy to reach.
        best: the lowest smoothed loss, or highest accuracy, of the median seed within the steps.
        largest_learning_rate: up to which no step overshoots, wherever training goes.
        curve: None when unstable.
        method: how the curve was simulated.
        definition: of the target, as a sentence.
        warnings: stable codes.
    """

    verdict: Verdict
    steps: float | None
    interval: tuple[float, float] | None
    confidence: float | None
    seconds: float | None
    seconds_interval: tuple[float, float] | None
    cost: float | None
    cost_interval: tuple[float, float] | None
    level: float | None
    best: float | None
    largest_learning_rate: float
    curve: ForecastCurve | None
    method: Method
    definition: str
    warnings: tuple[str, ...]

    @property
    def calm(self) -> bool:
        """Whether the linear model holds all along the training."""
        return self.verdict != "unstable" and FEATURES_LEAP not in self.warnings

    def as_dict(self) -> dict[str, Any]:
        """Return the forecast as JSON-ready data; an infinite largest learning rate is null."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("interval", "seconds_interval", "cost_interval"):
            fields[name] = None if fields[name] is None else list(fields[name])
        limit = self.largest_learning_rate
        return {
            **fields,
            "largest_learning_rate": limit if math.isfinite(limit) else None,
            "curve": None if self.curve is None else self.curve.as_dict(),
            "warnings": list(self.warnings),
        }
