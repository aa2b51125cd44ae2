"""One model of a fine-tune, trained as far as it is asked for."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch

from app.domain.errors import EvaluationFailed
from app.domain.finetuning import Recipe
from app.domain.model_spec import ModelSpec
from workers.extract.memory import is_out_of_memory
from workers.finetune.data import Data, SharedPixels
from workers.finetune.export import Export, write_export
from workers.finetune.halving import Entrant, Standing
from workers.finetune.recording import WATCHED_TRAINING_IMAGES
from workers.finetune.step_time import StepTime, measure_step
from workers.finetune.stored_checkpoint import StoredCheckpoint
from workers.finetune.tuning import LEVEL, Images, Tuned, Watch, tune
from workers.runtime import Runtime
from workers.subject import load_on
from workers.zoo.network import Network

_FORWARD = 1 / 3  # of a training step


class Contestant:
    """A model that is trained rung by rung."""

    def __init__(
        self,
        runtime: Runtime,
        data: Data,
        pixels: SharedPixels,
        spec: ModelSpec,
        checkpoint: str,
        report: Callable[[str, int, int], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Load nothing yet.

        Args:
            runtime: of this worker.
            data: what to train on.
            pixels: of the data.
            spec: of the model.
            checkpoint: the object from which another worker would go on.
            report: told of the stage, what is done and of how much.
            should_stop: asked between steps.
        """
        self._runtime, self._data, self._pixels, self._spec = runtime, data, pixels, spec
        self._checkpoint = StoredCheckpoint(runtime.objects, checkpoint, runtime.workspace, spec.digest)
        self._report, self._should_stop = report, should_stop
        self._network: Network | None = None
        self.step_time: StepTime | None = None

    def entrant(self, name: str, recipe: Recipe) -> Entrant:
        """Return what training costs, measured with a few steps; looks at the images in between included.

        Raises:
            Interrupted: ``should_stop`` said so.
            EvaluationFailed: ``out_of_memory``.
            ModelRejected: the model cannot be loaded, as ``load_on`` says.
        """
        counts = self._data.counts
        batch_size = min(recipe.batch_size, counts["train"])  # a step never has more
        with _telling_out_of_memory(self._runtime.device):
            started = time.monotonic()
            network = self._load()
            loaded = time.monotonic() - started
            images = self._images(network)
            self._report("timing", 0, 0)
            timed = replace(recipe, batch_size=batch_size)
            self.step_time = measure_step(network, images.num_classes, timed, should_stop=self._should_stop)
        looked_at = min(counts["train"], WATCHED_TRAINING_IMAGES) + counts["validation"]
        seconds = self.step_time.seconds
        an_image = seconds * _FORWARD / batch_size
        return Entrant(
            name=name,
            step_seconds=seconds * (1 + _FORWARD * looked_at / counts["train"]),
            look_seconds=an_image * looked_at,
            rung_seconds=an_image * counts["test"],
            load_seconds=loaded + self._pixels.seconds,
            trials=len(recipe.learning_rates),
        )

    def train(self, recipe: Recipe, *, trial_steps: int, until: int, test: bool) -> Tuned:
        """Train on, each learning rate ``trial_steps`` steps and the best ``until``, where it pauses or is tested.

        Raises:
            Interrupted: ``should_stop`` said so; a checkpoint was stored.
            EvaluationFailed: ``out_of_memory``.
            ModelRejected: the model cannot be loaded, as ``load_on`` says.
        """
        with _telling_out_of_memory(self._runtime.device):
            return self._train(recipe, trial_steps, until, test)

    def keep(self, tuned: Tuned, recipe: Recipe, name: str) -> None:
        """Store the tuned weights with their card and a script.

        Raises:
            EvaluationFailed: ``out_of_memory``.
        """
        data = self._data
        with _telling_out_of_memory(self._runtime.device):
            network = self._load()
            export = Export(self._spec, data.name, data.class_names, data.counts, recipe, tuned)
            with self._runtime.objects.create(name) as file:
                write_export(export, base=network, file=file)

    def unload(self) -> None:
        """Let the network go, until it is asked for again."""
        self._network = None
        self._runtime.loaded.forget()

    def drop(self) -> None:
        """Delete the checkpoint, and let the network go."""
        self._checkpoint.remove()
        self.unload()

    def _train(self, recipe: Recipe, trial_steps: int, until: int, test: bool) -> Tuned:
        network = self._load()
        images = self._images(network)
        steps = recipe.steps(len(images.split.train_T))
        watch = Watch(
            on_progress=lambda done, total: self._report("training", done, total),
            should_stop=self._should_stop,
            checkpoint=self._checkpoint,
            save_every=self._runtime.settings.checkpoint_seconds,
        )
        # Half a step less: rounding up must not make one more of it.
        share = min(1.0, (trial_steps - 0.5) / steps) if trial_steps < steps else 1.0
        return tune(network, images, recipe, trial_share=share, until=until, test=test, watch=watch)

    def _load(self) -> Network:
        if self._network is None:
            self._report("loading", 0, 0)
            self._network = load_on(self._runtime, self._spec, self._should_stop)
        return self._network

    def _images(self, network: Network) -> Images:
        data = self._data
        self._report("decoding", 0, 0)
        return Images(self._pixels.of(network.preprocess), data.labels_N, len(data.class_names), data.split)


@contextmanager
def _telling_out_of_memory(device: torch.device) -> Iterator[None]:
    """Tell users that memory ran out, wherever it did: in a copy of the network, its momentum, its export."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise EvaluationFailed(
            "out_of_memory",
            f"a training of the model does not fit into memory ({device})",
            hint="Use a worker with more memory, or a smaller model.",
        ) from error


def standing(tuned: Tuned) -> Standing:
    """Return how a training stands on the validation images."""
    if tuned.verdict == "diverged" or tuned.curves is None or not tuned.curves.points:
        return Standing(None, None)
    last = tuned.curves.points[-1]
    return Standing(last.validation_accuracy, last.validation_loss)


def outcome(tuned: Tuned) -> dict[str, Any]:
    """Return what is stored of a training, without its weights."""
    curves = tuned.curves
    points = [asdict(point) for point in curves.points] if curves else []
    return {
        "verdict": tuned.verdict,
        "learning_rate": tuned.learning_rate,
        "test_accuracy": tuned.test_accuracy,
        "interval": tuned.interval,
        "interval_level": None if tuned.interval is None else LEVEL,
        "steps": points[-1]["step"] if points else 0,
        "trials": [asdict(trial) for trial in tuned.trials],
        "curve": points,
    }
