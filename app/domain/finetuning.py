"""How a model is fine-tuned: the recipe, as plain data, and what follows from it by arithmetic."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from app.domain.errors import BadRequest

Loss = Literal["cross_entropy", "squared"]
BatchNorm = Literal["frozen", "live"]
Augmentation = Literal["none", "flip"]
Schedule = Literal["milestones", "constant"]

DECAY = 0.1
"""What the learning rate is multiplied by at a milestone."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stochastic gradient descent as in arXiv:2102.00084, section 5, whose values are the defaults.

    Attributes:
        learning_rates: candidates; the best on the validation split is taken.
        momentum: of the gradient.
        nesterov: whether the momentum looks ahead; without momentum it has no meaning and is left out.
        weight_decay: added to every gradient, times the weight.
        batch_size: images a step.
        epochs: passes over the training images.
        max_steps: the most steps, where the epochs would need more.
        schedule: ``milestones``: the rate is multiplied by 0.1 after half and after five sixths of all steps (epochs
            15 and 25 of 30); ``constant``: it stays.
        loss: ``cross_entropy``, or ``squared``: half the squared distance of the outputs from the one-hot label.
        batch_norm: ``frozen``: statistics of the pretraining, scale and shift are trained; ``live``: of each batch.
        augmentation: ``flip``: every image is mirrored in half of the epochs.
        seed: of the order of the images and of the augmentation; which images train, validate and test does not
            depend on it.
    """

    learning_rates: tuple[float, ...] = (0.01, 0.005, 0.001)
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    batch_size: int = 32
    epochs: int = 30
    max_steps: int | None = None
    schedule: Schedule = "milestones"
    loss: Loss = "cross_entropy"
    batch_norm: BatchNorm = "frozen"
    augmentation: Augmentation = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values with which nothing can be trained.

        Raises:
            BadRequest: ``invalid_recipe``, ``param`` is the field.
        """
        rates = self.learning_rates
        positive = bool(rates) and all(math.isfinite(rate) and rate > 0 for rate in rates)
        _require(positive, "learning_rates", rates, "Give at least one rate above 0, such as 0.01.")
        _require(len(set(rates)) == len(rates), "learning_rates", rates, "Name every rate once.")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "Give a number from 0 to below 1.")
        decays = math.isfinite(self.weight_decay) and self.weight_decay >= 0
        _require(decays, "weight_decay", self.weight_decay, "Give 0 or a small number, such as 0.0001.")
        for field in ("batch_size", "epochs"):
            _require(getattr(self, field) >= 1, field, getattr(self, field), "Give at least 1.")
        _require(self.max_steps is None or self.max_steps >= 1, "max_steps", self.max_steps, "Give null or at least 1.")
        _require(0 <= self.seed < 2**31, "seed", self.seed, "Give a whole number from 0 to 2147483647.")
        for field, kind in _CHOICES.items():
            choices = typing.get_args(kind)
            _require(getattr(self, field) in choices, field, getattr(self, field), "Use one of " + ", ".join(choices))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Recipe":
        """Read a recipe from JSON-like data, the inverse of ``as_dict``; what is left out has its default.

        Raises:
            BadRequest: ``invalid_recipe`` for an unknown field, a wrong type or an impossible value.
        """
        if not isinstance(data, Mapping):
            raise _invalid(None, f"{data!r} is no recipe", "Give an object.")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        read: dict[str, Any] = {}
        for name, value in data.items():
            if name not in fields:
                raise _invalid(name, "unknown field", "Known fields: " + ", ".join(fields))
            read[name] = _read(name, value)
        return cls(**read)

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON-ready data."""
        return {**dataclasses.asdict(self), "learning_rates": list(self.learning_rates)}

    def steps_per_epoch(self, images: int) -> int:
        """Return how many batches ``images`` training images make; the last one may be smaller.

        A single image has no batch statistics, so with live ones a rest of one image is left out of the epoch.
        """
        whole, rest = divmod(images, self.batch_size)
        if rest == 1 and whole and self.batch_norm == "live":
            return whole
        return whole + (rest > 0)

    def steps(self, images: int) -> int:
        """Return the number of steps with ``images`` training images."""
        steps = self.epochs * self.steps_per_epoch(images)
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def rate_at(self, step: int, steps: int, learning_rate: float) -> float:
        """Return the learning rate of step ``step``, counted from 0, of ``steps``."""
        if self.schedule == "constant":
            return learning_rate
        passed = (2 * step >= steps) + (6 * step >= 5 * steps)
        return learning_rate * DECAY**passed


_CHOICES: dict[str, Any] = {"loss": Loss, "batch_norm": BatchNorm, "augmentation": Augmentation, "schedule": Schedule}
_WHOLE = ("batch_size", "epochs", "max_steps", "seed")
_REAL = ("momentum", "weight_decay")


def _read(name: str, value: Any) -> Any:
    """Return the JSON value of a field in the field's type."""
    if name == "learning_rates":
        if not isinstance(value, (list, tuple)) or not all(_is_number(rate) for rate in value):
            raise _invalid(name, f"{value!r} is not a list of numbers", "Give a list such as [0.01, 0.001].")
        return tuple(float(rate) for rate in value)
    if name in _REAL:
        if not _is_number(value):
            raise _invalid(name, f"{value!r} is not a number", "Give a number.")
        return float(value)
    if name in _WHOLE and type(value) is not int and not (name == "max_steps" and value is None):
        raise _invalid(name, f"{value!r} is not a whole number", "Give a whole number.")
    if name == "nesterov" and type(value) is not bool:
        raise _invalid(name, f"{value!r} is neither true nor false", "Give true or false.")
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _require(condition: bool, field: str, value: Any, hint: str) -> None:
    if not condition:
        raise _invalid(field, f"{value!r} cannot be used", hint)


def _invalid(field: str | None, message: str, hint: str) -> BadRequest:
    return BadRequest("invalid_recipe", f"{field or 'the recipe'}: {message}", param=field, hint=hint)
