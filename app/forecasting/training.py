"""The training whose time is asked for: torch.optim.SGD's hyperparameters, checked."""

import math
from bisect import bisect_right
from dataclasses import dataclass

from app.domain.errors import BadRequest
from app.domain.finetuning import DECAY, Loss, Recipe

LOSSES: tuple[Loss, ...] = ("cross_entropy", "squared")


@dataclass(frozen=True, kw_only=True)
class Training:
    """Stochastic gradient descent on the mean loss of a batch, with the semantics of ``torch.optim.SGD``.

    Attributes:
        learning_rate: of the first step.
        batch_size: images a step; drawn without replacement, epoch by epoch, the last batch of an epoch may be smaller.
        steps: how many.
        momentum: of the gradient; the first gradient enters undamped.
        nesterov: whether the momentum looks ahead; without momentum it changes nothing.
        weight_decay: added to every gradient, times the weight; head and bias are decayed as well.
        milestones: steps, counted from 0, from which on the rate is multiplied by ``gamma`` once more.
        gamma: see ``milestones``.
        loss: ``cross_entropy``, or ``squared``: half the squared distance of the outputs from the one-hot label, summed
            over outputs. Both are means over images.
    """

    learning_rate: float
    batch_size: int
    steps: int
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = DECAY
    loss: Loss = "cross_entropy"

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated.

        Raises:
            BadRequest: ``invalid_training``, ``param`` is the field.
        """
        rate, decay = self.learning_rate, self.weight_decay
        _require(math.isfinite(rate) and rate > 0, "learning_rate", rate, "Give a number above 0.")
        for field in ("batch_size", "steps"):
            value = getattr(self, field)
            _require(type(value) is int and value >= 1, field, value, "Give a whole number of at least 1.")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "Give a number from 0 to below 1.")
        _require(math.isfinite(decay) and decay >= 0, "weight_decay", decay, "Give 0 or a small number, such as 1e-4.")
        ascending = list(self.milestones) == sorted(self.milestones) and min(self.milestones, default=0) >= 0
        _require(ascending, "milestones", self.milestones, "Give steps from 0 on, in ascending order.")
        _require(math.isfinite(self.gamma) and self.gamma > 0, "gamma", self.gamma, "Give a number above 0.")
        _require(self.loss in LOSSES, "loss", self.loss, "Use one of " + ", ".join(LOSSES))

    @classmethod
    def from_recipe(cls, recipe: Recipe, *, learning_rate: float, images: int) -> "Training":
        """Return the training that a recipe means for ``images`` training images at one of its learning rates."""
        steps = recipe.steps(images)
        milestones = () if recipe.schedule == "constant" else (-(-steps // 2), -(-5 * steps // 6))
        return cls(
            learning_rate=learning_rate,
            batch_size=recipe.batch_size,
            steps=steps,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            milestones=milestones,
            loss=recipe.loss,
        )

    def rate_at(self, step: int) -> float:
        """Return the learning rate of step ``step``, counted from 0."""
        return float(self.learning_rate * self.gamma ** bisect_right(self.milestones, step))

    @property
    def effective_rates(self) -> list[float]:
        """Return rate / (1 - momentum) of every step, what momentum comes to while the gradient changes slowly."""
        return [self.rate_at(step) / (1 - self.momentum) for step in range(self.steps)]


def _require(condition: bool, field: str, value: object, hint: str) -> None:
    if not condition:
        raise BadRequest("invalid_training", f"{field}: {value!r} cannot be used", param=field, hint=hint)
