"""What the service answers about a fine-tune, as typed, frozen objects."""

from datetime import datetime
from typing import Any

from app.client.resources import Budget, Job, JobError, Notice, Progress, Resource
from app.domain.states import FINETUNE_TERMINAL


class Trial(Resource):
    """How training with one learning rate went; without a validation accuracy it diverged."""

    learning_rate: float
    verdict: str
    steps: int
    validation_loss: float | None
    validation_accuracy: float | None


class CurvePoint(Resource):
    """Loss and accuracy after some steps."""

    step: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


class TunedModel(Resource):
    """What became of one model of a fine-tune; ``verdict`` is trained, stuck, diverged, given_up or failed.

    ``interval`` holds the test accuracy with probability ``interval_level``. ``steps`` are those of all learning rates
    together, ``full_steps`` those of the recipe. ``weights`` is None where there are none to download.
    """

    model: str
    name: str
    verdict: str
    learning_rate: float | None
    test_accuracy: float | None
    interval: tuple[float, float] | None
    interval_level: float | None
    steps: int
    full_steps: int
    step_seconds: float | None
    seconds: float
    trials: tuple[Trial, ...]
    curve: tuple[CurvePoint, ...]
    warnings: tuple[str, ...]
    weights: str | None
    error: JobError | None


class Finetune(Job):
    """Models that are really trained, one after the other; ``models`` holds those that have ended.

    ``images`` says how many of the data set train, choose the learning rate (``validation``) and ``test``.
    """

    terminal = frozenset[str](FINETUNE_TERMINAL)
    dataset: str
    selection: str | None = None
    progress: Progress | None
    recipe: dict[str, Any]
    budget: Budget | None = None
    worker_seconds: float = 0.0
    expires_at: datetime | None = None
    device: str | None
    images: dict[str, int] | None
    models: tuple[TunedModel, ...]
    warnings: tuple[Notice, ...] = ()
