"""A question about fine-tuning one measured network, and its answer: the same for whoever asks."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from app.domain.errors import BadRequest
from app.domain.finetuning import Recipe
from app.forecasting.calibration import Calibration, CalibrationPoint, load
from app.forecasting.forecast import forecast
from app.forecasting.kernel_extension import extended
from app.forecasting.measured_network import MeasuredNetwork
from app.forecasting.result import Method
from app.forecasting.stability import learning_rate_limit
from app.forecasting.target import Target
from app.forecasting.training import Training

_LEAST_FAMILIES = 3
_POINTS = Path(__file__).with_name("calibration_points.json")
MOST_CLASSES = 200
"""More are not forecast: a simulated step goes with their number times that of the images."""

_MOST_STEPS = 5000
_MOST_WORK = 500_000  # classes times steps: some ten seconds
_SEEDS, _SEEDS_OF_LITTLE = 1, 3
_LITTLE_WORK = 20_000
_MOST_IMAGES = 400  # that are simulated: a what-if is answered within a second


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The machine that is asked about, against the worker that timed a step.

    Attributes:
        name: for people; None: the worker's own device.
        speed: how many times as fast a step is there.
        price_per_hour: in any currency.
    """

    name: str | None = None
    speed: float = 1.0
    price_per_hour: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no speed and no price.

        Raises:
            BadRequest: ``invalid_hardware``, ``param`` is the field.
        """
        price = self.price_per_hour
        for wrong, param, hint in (
            (not (math.isfinite(self.speed) and self.speed > 0), "speed", "Give a number above 0."),
            (price is not None and not (math.isfinite(price) and price >= 0), "price_per_hour", "Give 0 or more."),
        ):
            if wrong:
                message = f"{param}: {getattr(self, param)!r} cannot be used"
                raise BadRequest("invalid_hardware", message, param=param, hint=hint)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be forecast.

    Attributes:
        target: what counts as trained.
        recipe: of the training; of its learning rates the largest is taken with which the linear model holds, or else
            the smallest.
        hardware: whose seconds and costs are asked for.
        method: of the simulation.
    """

    target: Target = field(default_factory=Target)
    recipe: Recipe = field(default_factory=Recipe)
    hardware: Hardware = field(default_factory=Hardware)
    method: Method = "bilinear"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Question":
        """Read a question from JSON-like data, the inverse of ``as_dict``.

        Raises:
            BadRequest: ``invalid_target``, ``invalid_recipe`` or ``invalid_hardware``.
        """
        known = dict(data)
        target, recipe = Target(**known.pop("target", {})), Recipe.from_dict(known.pop("recipe", {}))
        return cls(target=target, recipe=recipe, hardware=Hardware(**known.pop("hardware", {})), **known)

    def as_dict(self) -> dict[str, Any]:
        """Return the question as JSON-ready data."""
        return {
            "target": asdict(self.target),
            "recipe": self.recipe.as_dict(),
            "hardware": asdict(self.hardware),
            "method": self.method,
        }


def answer(measured: MeasuredNetwork, question: Question) -> dict[str, Any]:
    """Return a forecast as JSON-ready data, with the training that it is of and what it rests on.

    Raises:
        BadRequest: ``training_too_long``.
        EvaluationFailed: as ``forecast`` says.
    """
    linearisation, recipe = extended(measured.linearisation(), largest=_MOST_IMAGES), question.recipe
    training = Training.from_recipe(recipe, learning_rate=recipe.learning_rates[0], images=measured.train_images)
    work, most = training.steps * linearisation.num_classes, min(_MOST_STEPS, _MOST_WORK // linearisation.num_classes)
    if training.steps > most:
        raise BadRequest(
            "training_too_long",
            f"{recipe.epochs} epochs of {measured.train_images} images in batches of {recipe.batch_size} are "
            f"{training.steps} steps; a forecast for {linearisation.num_classes} classes simulates {most} at most.",
            param="recipe.max_steps",
            hint="Set max_steps, ask for fewer epochs, or take larger batches.",
        )
    limit = learning_rate_limit(linearisation, training)
    stable = [rate for rate in recipe.learning_rates if rate <= limit.certain]
    step_seconds = measured.step_seconds(min(recipe.batch_size, measured.train_images))
    if step_seconds is not None:
        step_seconds /= question.hardware.speed
    for rate in sorted(stable or [min(recipe.learning_rates)], reverse=True):
        training = replace(training, learning_rate=rate)
        found = forecast(
            linearisation,
            training,
            question.target,
            _calibration(training, measured.family),
            step_seconds=step_seconds,
            price_per_hour=question.hardware.price_per_hour,
            seeds=_SEEDS_OF_LITTLE if work <= _LITTLE_WORK else _SEEDS,
            method=question.method,
            num_images=max(measured.train_images, linearisation.num_images),
            extrapolation="none",  # what could be filled in has been
            limit=limit,
        )
        if found.calm:
            break
    return found.as_dict() | {
        "target": asdict(question.target),
        "training": asdict(training) | {"epochs": recipe.epochs, "images": measured.train_images},
        "step_seconds": step_seconds,
        "device": measured.device,
        "hardware": asdict(question.hardware),
        "measured_images": measured.measured_images,
        "simulated_images": linearisation.num_images,
    }


def _calibration(training: Training, family: str) -> Calibration:
    """Return what other families' trainings say; nothing where these are too few to speak for one more."""
    points = [point for point in _points() if point.family != family and point.loss == training.loss]
    known = len({point.family for point in points}) >= _LEAST_FAMILIES
    return Calibration.fit(points if known else [], loss=training.loss)


@cache
def _points() -> list[CalibrationPoint]:
    return load(json.loads(_POINTS.read_text(encoding="utf-8")))
