"""A whole fine-tuning: a training run for each learning rate, the best one on the validation split, its test accuracy.

N images of the data set, S test images
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from app.domain.finetuning import Recipe
from app.domain.ranking import wilson_interval
from workers.finetune.checkpoint import Checkpoint
from workers.finetune.curves import Curves
from workers.finetune.evaluation import evaluate
from workers.finetune.halving import Standing
from workers.finetune.pixels import PixelStore
from workers.finetune.recording import Watched, train_recorded, watched_training_images
from workers.finetune.split import SEED, Split
from workers.finetune.training import Training, TrainingState, below
from workers.finetune.tuned_network import TunedNetwork
from workers.zoo.network import Network

LEVEL = 0.9
"""Confidence of the interval of a test accuracy, as of every accuracy that users are shown."""

Verdict = Literal["trained", "stuck", "diverged"]
"""``stuck``: the loss of the training images did not fall; ``diverged``: it became infinite or no number."""


@dataclass(frozen=True)
class Trial:
    """How training with one learning rate went, over all of its steps or the first of them."""

    learning_rate: float
    verdict: Verdict
    steps: int
    validation_loss: float | None
    validation_accuracy: float | None

    @property
    def order(self) -> tuple[tuple[bool, float, float], float]:
        """Sorts the best first; of equals, the smallest rate."""
        return Standing(self.validation_accuracy, self.validation_loss).order, self.learning_rate


@dataclass(frozen=True, eq=False)
class Tuned:
    """The outcome for one seed; of a training that was paused, without weights and test.

    ``learning_rate``, ``curves`` and ``weights`` (of a ``TunedNetwork``) are those of the chosen rate. The three and
    the accuracy are None where every rate diverged. ``correct_S`` tells which test images are right.
    """

    verdict: Verdict
    seed: int
    trials: tuple[Trial, ...]
    learning_rate: float | None
    curves: Curves | None
    weights: dict[str, Tensor] | None
    test_loss: float | None
    correct_S: NDArray[np.bool_] | None

    @property
    def test_accuracy(self) -> float | None:
        """Share of the test images that are right."""
        return None if self.correct_S is None else float(self.correct_S.mean())

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson interval of the test accuracy."""
        if self.correct_S is None:
            return None
        return wilson_interval(int(self.correct_S.sum()), len(self.correct_S), LEVEL)

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the weights as JSON-ready data."""
        return {
            "verdict": self.verdict,
            "seed": self.seed,
            "learning_rate": self.learning_rate,
            "trials": [asdict(trial) for trial in self.trials],
            "test_loss": self.test_loss,
            "test_accuracy": self.test_accuracy,
            "interval": self.interval,
            "interval_level": LEVEL,
            "curves": None if self.curves is None else self.curves.as_dict(),
        }


@dataclass(frozen=True, eq=False)
class Images:
    """The data set that a network is tuned on: pixels, classes (N) and the split; C is the number of classes."""

    store: PixelStore
    labels_N: NDArray[np.int64]
    num_classes: int
    split: Split


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What the caller hears and says while a network is tuned.

    Attributes:
        every: steps from one evaluation to the next, besides those at the ends of epochs.
        on_progress: called after each step with the steps done and the steps of all trials together.
        should_stop: asked between steps.
        checkpoint: read at the start, written every ``save_every`` seconds and before an interruption.
        save_every: seconds.
    """

    every: int | None = None
    on_progress: Callable[[int, int], None] | None = None
    should_stop: Callable[[], bool] | None = None
    checkpoint: Checkpoint | None = None
    save_every: float = 60.0


def tune(
    network: Network,
    images: Images,
    recipe: Recipe,
    *,
    trial_share: float = 1.0,
    until: int | None = None,
    test: bool = False,
    watch: Watch | None = None,
) -> Tuned:
    """Train with every candidate rate and test the one that is best on the validation split.

    The best has the highest validation accuracy; of equals, the lowest validation loss, then the smallest rate. The
    test split is looked at once, in the end. A trial's schedule is that of the whole training, of which it may be the
    first part.

    Args:
        network: keeps its weights; every trial starts from a copy.
        images: what to train, choose and test on.
        recipe: how.
        trial_share: share of the steps each rate is tried for; only the best then goes on to the last step.
        until: pause when the best rate has done so many steps, without a test; a call with a larger number goes on from
            the checkpoint.
        test: end at ``until`` with a test instead of a pause.
        watch: what the caller hears and says.

    Raises:
        Interrupted: ``should_stop`` said so; the same call goes on from the checkpoint, with the same bits on a CPU.
        EvaluationFailed: ``out_of_memory``.
    """
    if not 0 < trial_share <= 1:
        raise ValueError(f"trial_share must be above 0 and at most 1, got {trial_share}")
    return _Tuning(network, images, recipe, trial_share, watch or Watch()).run(until, test=test)


def tune_seeds(
    network: Network,
    images: Images,
    recipe: Recipe,
    seeds: list[int],
    *,
    trial_share: float = 1.0,
    watch_of: Callable[[int], Watch] | None = None,
) -> list[Tuned]:
    """Repeat ``tune`` with several seeds, each choosing its own rate: the spread of the order of the images.

    Args:
        network: as for ``tune``.
        images: as for ``tune``; the split stays.
        recipe: its seed is replaced.
        seeds: one for each repetition.
        trial_share: as for ``tune``.
        watch_of: gives the watch, with a checkpoint of its own, of a seed.
    """
    return [
        tune(
            network,
            images,
            replace(recipe, seed=seed),
            trial_share=trial_share,
            watch=None if watch_of is None else watch_of(seed),
        )
        for seed in seeds
    ]


class _Tuning:
    """The trials so far, the state of the best of them, and the run under way."""

    def __init__(self, network: Network, images: Images, recipe: Recipe, trial_share: float, watch: Watch) -> None:
        self.network, self.images, self.recipe, self.watch = network, images, recipe, watch
        split = images.split
        self.steps = recipe.steps(len(split.train_T))
        self.trial_steps = max(1, math.ceil(trial_share * self.steps))
        shown_W = watched_training_images(split.train_T, SEED)
        self.watched = Watched(images.store, images.labels_N, shown_W, split.validation_V, watch.every)
        self.trials: list[Trial] = []
        self.best: TrainingState | None = None
        self.under_way: TrainingState | None = None

    def run(self, until: int | None, *, test: bool) -> Tuned:
        until = self.steps if until is None else min(until, self.steps)
        self._load()
        rates = self.recipe.learning_rates
        for number in range(len(self.trials), len(rates)):
            training = self._start(rates[number], self.under_way)
            self.under_way = None
            self._train(training, min(self.trial_steps, until), number * self.trial_steps)
            trial = _trial(training)
            if trial.verdict != "diverged" and all(trial.order < other.order for other in self.trials):
                self.best = training.state()
            self.trials.append(trial)
        if self.best is None:
            return Tuned("diverged", self.recipe.seed, tuple(self.trials), None, None, None, None, None)
        training = self._start(self.best.progress["learning_rate"], self.under_way or self.best)
        self._train(training, until, (len(rates) - 1) * self.trial_steps)
        return self._tested(training) if test or until == self.steps else self._paused(training)

    def _paused(self, training: Training) -> Tuned:
        if self.watch.checkpoint is not None:
            self._save(self.watch.checkpoint, training.state())
        trials = tuple(self.trials)
        return Tuned(
            _verdict(training), self.recipe.seed, trials, training.learning_rate, training.curves, None, None, None
        )

    def _tested(self, training: Training) -> Tuned:
        trials, seed = tuple(self.trials), self.recipe.seed
        verdict = _verdict(training)
        if verdict == "diverged":
            return Tuned(verdict, seed, trials, training.learning_rate, training.curves, None, None, None)
        found = evaluate(
            training.network,
            self.images.store,
            self.images.split.test_S,
            self.images.labels_N,
            self.recipe.loss,
            batch_size=training.fitting,
            should_stop=self.watch.should_stop,
        )
        weights = below("network.", training.state().tensors)
        return Tuned(
            verdict, seed, trials, training.learning_rate, training.curves, weights, found.loss, found.correct_E
        )

    def _start(self, rate: float, state: TrainingState | None) -> Training:
        """Return a run from the pretrained weights, or from where it was."""
        tuned = TunedNetwork.of(self.network, self.images.num_classes)
        images = self.images
        training = Training(tuned, images.store, images.split.train_T, images.labels_N, self.recipe, rate)
        if state is not None:
            training.restore(state)
        return training

    def _train(self, training: Training, until: int, before: int) -> None:
        watch = self.watch
        rates = len(self.recipe.learning_rates)
        of = rates * self.trial_steps + self.steps - self.trial_steps
        on_progress = watch.on_progress
        train_recorded(
            training,
            self.watched,
            until=until,
            should_stop=watch.should_stop,
            on_step=None if on_progress is None else lambda step: on_progress(before + step, of),
            save=None if watch.checkpoint is None else partial(self._save, watch.checkpoint),
            save_every=watch.save_every,
        )

    def _save(self, checkpoint: Checkpoint, state: TrainingState) -> None:
        tensors = {f"now.{name}": tensor for name, tensor in state.tensors.items()}
        if self.best is not None:
            tensors |= {f"best.{name}": tensor for name, tensor in self.best.tensors.items()}
        progress = {
            "learning_rate_index": len(self.trials),
            "trials": [asdict(trial) for trial in self.trials],
            "now": state.progress,
            "best": None if self.best is None else self.best.progress,
        }
        checkpoint.save(TrainingState(tensors, progress))

    def _load(self) -> None:
        saved = None if self.watch.checkpoint is None else self.watch.checkpoint.load()
        if saved is None:
            return
        self.trials = [Trial(**trial) for trial in saved.progress["trials"]]
        self.under_way = TrainingState(below("now.", saved.tensors), saved.progress["now"])
        if saved.progress["best"] is not None:
            self.best = TrainingState(below("best.", saved.tensors), saved.progress["best"])


def _trial(training: Training) -> Trial:
    verdict, step, points = _verdict(training), training.step, training.curves.points
    if verdict == "diverged":
        return Trial(training.learning_rate, verdict, step, None, None)
    return Trial(training.learning_rate, verdict, step, points[-1].validation_loss, points[-1].validation_accuracy)


def _verdict(training: Training) -> Verdict:
    points = training.curves.points
    if training.verdict == "diverged":
        return "diverged"
    return "trained" if points[-1].train_loss < points[0].train_loss else "stuck"
