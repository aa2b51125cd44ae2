"""What earlier forecasts got wrong, and by how much the next one may be wrong.

Legend: K levels of loss, M points.

A linearised network is too slow late in training: in truth its kernel grows towards the labels. By how much depends on
how far the loss has fallen, so it is measured on trained models: c(eps) = median of predicted / real steps to eps times
the initial loss, between levels of eps linearly in log eps. It is divided out only if the same correction, each family
corrected by the others, brings the trainings of the calibration nearer to the truth; else c is 1.

The interval is conformal: every point is calibrated without its own architecture family, as a new model will be, and of
|log(real / calibrated)| the ceil((M + 1) level)-th smallest is taken, symmetric in the logarithm. Points of one
architecture are alike, so coverage holds over architectures, on average, and not for each.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import BadRequest
from app.domain.finetuning import Loss

_Array = NDArray[np.float64]

DEFAULT_FACTOR = 1.35
"""The interval is x/÷ this without enough points."""

LEVEL = 0.8
ENOUGH_FOR_MEDIAN = 3
ENOUGH_FOR_INTERVAL = 10


@dataclass(frozen=True, kw_only=True)
class CalibrationPoint:
    """One forecast whose training was then done.

    Attributes:
        architecture: of the model.
        family: architectures that are too alike to test one with the other, such as all residual networks.
        eps: the loss that was waited for, over the initial loss. Points count together where it is equal.
        predicted_steps: forecast without calibration.
        real_steps: of the training.
        loss: that was trained with.
    """

    architecture: str
    family: str
    eps: float
    predicted_steps: float
    real_steps: float
    loss: Loss = "cross_entropy"

    def __post_init__(self) -> None:
        """Refuse what has no logarithm.

        Raises:
            BadRequest: ``invalid_calibration``, ``param`` is the field.
        """
        for field in ("eps", "predicted_steps", "real_steps"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value > 0) or (field == "eps" and value >= 1):
                raise BadRequest(
                    "invalid_calibration",
                    f"{field}: {value!r} cannot be used",
                    param=field,
                    hint="Leave out points that were not reached; eps lies between 0 and 1.",
                )


def load(rows: Iterable[Mapping[str, Any]]) -> list[CalibrationPoint]:
    """Read points from JSON-like rows, the inverse of ``save``.

    Raises:
        BadRequest: ``invalid_calibration``: a row with other fields, or an impossible value.
    """
    names = {field.name for field in dataclasses.fields(CalibrationPoint)}
    points = []
    for number, row in enumerate(rows):
        if set(row) != names:
            raise BadRequest(
                "invalid_calibration",
                f"Row {number} has the fields {sorted(row)}.",
                param="rows",
                hint="Give " + ", ".join(sorted(names)),
            )
        points.append(CalibrationPoint(**row))
    return points


def save(points: Iterable[CalibrationPoint]) -> list[dict[str, Any]]:
    """Return points as JSON-ready rows."""
    return [dataclasses.asdict(point) for point in points]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Bias and spread for one loss, from the points of other families.

    Attributes:
        log_eps_K: levels, rising; none: nothing is known.
        log_ratio_K: log c at each; 0 where a correction helps no other family.
        log_eps_M: the level of each point.
        error_M: |log(real / calibrated)|, the point's family left out of the calibration.
        confidence: share of new trainings that the interval shall hold.
    """

    log_eps_K: _Array
    log_ratio_K: _Array
    log_eps_M: _Array
    error_M: _Array
    confidence: float = LEVEL

    @classmethod
    def fit(
        cls,
        points: Sequence[CalibrationPoint],
        *,
        loss: Loss,
        without_family: str | None = None,
        confidence: float = LEVEL,
    ) -> "Calibration":
        """Return the calibration for a model of a family, to which its family's points do not contribute.

        Raises:
            ValueError: the confidence is not between 0 and 1.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"a confidence lies between 0 and 1, {confidence} does not")
        used = [point for point in points if point.loss == loss and point.family != without_family]
        log_eps_K, log_ratio_K = _medians(used)
        log_eps, errors, uncorrected = [], [], []
        for family in sorted({point.family for point in used}):
            levels_K, ratios_K = _medians([point for point in used if point.family != family])
            if not len(levels_K):
                continue
            for point in used:
                if point.family == family:
                    bias = float(np.interp(math.log(point.eps), levels_K, ratios_K))
                    errors.append(abs(_log_ratio(point) - bias))
                    uncorrected.append(abs(_log_ratio(point)))
                    log_eps.append(math.log(point.eps))
        if errors and np.mean(errors) >= np.mean(uncorrected):
            errors, log_ratio_K = uncorrected, np.zeros_like(log_ratio_K)
        return cls(log_eps_K, log_ratio_K, np.array(log_eps), np.array(errors), confidence)

    @property
    def known(self) -> bool:
        """Whether any bias is corrected."""
        return len(self.log_eps_K) > 0

    def ratio(self, eps: _Array) -> _Array:
        """Return c at fractions of the initial loss; beyond the outermost levels it is theirs."""
        if not self.known:
            return np.ones_like(eps)
        return np.asarray(np.exp(np.interp(np.log(np.maximum(eps, 1e-300)), self.log_eps_K, self.log_ratio_K)))

    def covers(self, eps: float) -> bool:
        """Whether a level lies between the outermost ones."""
        return self.known and bool(self.log_eps_K[0] - 1e-9 <= math.log(eps) <= self.log_eps_K[-1] + 1e-9)

    def factor(self, eps: float) -> float | None:
        """Return the interval's factor at a level: real steps lie within x/÷ it; None with too few points.

        The points nearest in eps count alone where there are enough of them, all points otherwise.
        """
        if not len(self.error_M):
            return None
        distance_M = np.abs(self.log_eps_M - math.log(eps))
        near = self.error_M[distance_M <= distance_M.min() + 1e-9]
        for error in (near, self.error_M):
            place = math.ceil((len(error) + 1) * self.confidence)
            if len(error) >= ENOUGH_FOR_INTERVAL and place <= len(error):
                return float(np.exp(np.sort(error)[place - 1]))
        return None


def _medians(points: Sequence[CalibrationPoint]) -> tuple[_Array, _Array]:
    """Return the levels with enough points, and the median log ratio at each."""
    by_eps: dict[float, list[float]] = {}
    for point in points:
        by_eps.setdefault(round(math.log(point.eps), 9), []).append(_log_ratio(point))
    levels = sorted(eps for eps, ratios in by_eps.items() if len(ratios) >= ENOUGH_FOR_MEDIAN)
    return np.array(levels), np.array([float(np.median(by_eps[eps])) for eps in levels])


def _log_ratio(point: CalibrationPoint) -> float:
    return math.log(point.predicted_steps / point.real_steps)
