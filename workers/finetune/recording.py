"""Training with evaluations in between and checkpoints.

N images of the store, T training images, V validation images
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.interruption import Interrupted
from workers.finetune.curves import Point
from workers.finetune.evaluation import evaluate
from workers.finetune.pixels import PixelStore
from workers.finetune.training import Training, TrainingState

WATCHED_TRAINING_IMAGES = 512


@dataclass(frozen=True, eq=False)
class Watched:
    """What is evaluated while a network trains, and when: every ``every`` steps and at the end of each epoch."""

    store: PixelStore
    labels_N: NDArray[np.int64]
    train_W: NDArray[np.intp]
    validation_V: NDArray[np.intp]
    every: int | None = None


def watched_training_images(train_T: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """Return all training images, or a fixed sample of 512."""
    if len(train_T) <= WATCHED_TRAINING_IMAGES:
        return train_T
    return np.sort(np.random.default_rng(seed).choice(train_T, WATCHED_TRAINING_IMAGES, replace=False))


def train_recorded(
    training: Training,
    watched: Watched,
    *,
    until: int | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_step: Callable[[int], None] | None = None,
    save: Callable[[TrainingState], None] | None = None,
    save_every: float = 60.0,
) -> None:
    """Train until ``until`` steps are done, recording points into the training's curves.

    A run that goes on from a saved state takes the steps and records the points that are missing.

    Args:
        training: at any step.
        watched: what is evaluated and when.
        until: the number of steps after which to return; all of them without it.
        should_stop: asked before each step and between the batches of an evaluation; what it raises is passed on, and
            nothing is saved.
        on_step: called after each step with the number of steps done.
        save: is given the state, every ``save_every`` seconds and before an interruption.
        save_every: seconds.

    Raises:
        Interrupted: ``should_stop`` said so; the state was saved.
        EvaluationFailed: ``out_of_memory``.
    """
    saved = time.monotonic()

    def after_step(step: int) -> None:
        nonlocal saved
        if save is not None and time.monotonic() - saved >= save_every:
            save(training.state())
            saved = time.monotonic()
        if on_step is not None:
            on_step(step)

    last = training.steps if until is None else min(until, training.steps)
    try:
        for step in _record_steps(last, watched.every, training.steps_per_epoch):
            if step < training.step:
                continue
            training.run(step, should_stop=should_stop, on_step=after_step)
            if training.verdict == "diverged":
                return
            points = training.curves.points
            if not points or points[-1].step < step:
                point = _point(training, watched, should_stop)
                if point is None:
                    training.verdict = "diverged"
                    return
                points.append(point)
    except Interrupted:
        if save is not None:
            save(training.state())
        raise


def _record_steps(last: int, every: int | None, steps_per_epoch: int) -> list[int]:
    """Return after which steps a run is evaluated, the first and the last included."""
    return sorted({0, last, *range(0, last, steps_per_epoch), *range(0, last, every or steps_per_epoch)})


def _point(training: Training, watched: Watched, should_stop: Callable[[], bool] | None) -> Point | None:
    """Evaluate, or return None where a loss is no number."""
    train, validation = (
        evaluate(
            training.network,
            watched.store,
            images,
            watched.labels_N,
            training.recipe.loss,
            batch_size=training.fitting,
            should_stop=should_stop,
        )
        for images in (watched.train_W, watched.validation_V)
    )
    if not (train.finite and validation.finite):
        return None
    return Point(training.step, train.loss, train.accuracy, validation.loss, validation.accuracy)
