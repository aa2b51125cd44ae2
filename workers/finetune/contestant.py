"""One model of a fine-tune: its network and pixels, loaded once, trained as far as it is asked for.

N images of the data set
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.finetuning import Recipe
from app.domain.model_spec import ModelSpec
from app.ingest.shard import iter_images
from workers.finetune.export import Export, export_zip
from workers.finetune.halving import Entrant, Standing
from workers.finetune.pixels import PixelStore
from workers.finetune.recording import WATCHED_TRAINING_IMAGES
from workers.finetune.split import Split
from workers.finetune.step_time import StepTime, measure_step
from workers.finetune.stored_checkpoint import StoredCheckpoint
from workers.finetune.tuning import LEVEL, Images, Tuned, Watch, tune
from workers.runtime import Runtime
from workers.subject import load_on
from workers.zoo.network import Network

_FORWARD = 1 / 3  # of a training step


@dataclass(frozen=True, eq=False)
class Data:
    """What is trained on: the canonical file, its labels (N) and class names, and who trains, chooses and tests."""

    name: str
    shard: Path
    labels_N: NDArray[np.int64]
    class_names: list[str]
    split: Split

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each part of the split."""
        parts = self.split
        return {"train": len(parts.train_T), "validation": len(parts.validation_V), "test": len(parts.test_S)}


class Contestant:
    """A model that is trained rung by rung."""

    def __init__(
        self,
        runtime: Runtime,
        data: Data,
        spec: ModelSpec,
        checkpoint: str,
        report: Callable[[str, int, int], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Load nothing yet.

        Args:
            runtime: of this worker.
            data: what to train on.
            spec: of the model.
            checkpoint: the object from which another worker would go on.
            report: told of the stage, what is done and of how much.
            should_stop: asked between steps.
        """
        self._runtime, self._data, self._spec = runtime, data, spec
        self._checkpoint = StoredCheckpoint(runtime.objects, checkpoint, runtime.workspace, spec.digest)
        self._report, self._should_stop = report, should_stop
        self._loaded: tuple[Network, Images] | None = None
        self.step_time: StepTime | None = None

    def entrant(self, name: str, recipe: Recipe) -> Entrant:
        """Return what training costs, measured with a few steps; looks at the images in between included.

        Raises:
            Interrupted: ``should_stop`` said so.
            EvaluationFailed: ``out_of_memory``.
        """
        network, images = self._load()
        self._report("timing", 0, 0)
        self.step_time = measure_step(network, images.num_classes, recipe, should_stop=self._should_stop)
        counts = self._data.counts
        looked_at = min(counts["train"], WATCHED_TRAINING_IMAGES) + counts["validation"]
        seconds = self.step_time.seconds
        return Entrant(
            name=name,
            step_seconds=seconds * (1 + _FORWARD * looked_at / counts["train"]),
            rung_seconds=seconds * _FORWARD * (looked_at + counts["test"]) / recipe.batch_size,
            trials=len(recipe.learning_rates),
        )

    def train(self, recipe: Recipe, *, trial_steps: int, until: int) -> Tuned:
        """Train on, each learning rate ``trial_steps`` steps and the best ``until``; with the last step comes the test.

        Raises:
            Interrupted: ``should_stop`` said so; a checkpoint was stored.
            EvaluationFailed: ``out_of_memory``.
        """
        network, images = self._load()
        steps = recipe.steps(len(images.split.train_T))
        watch = Watch(
            on_progress=lambda done, total: self._report("training", done, total),
            should_stop=self._should_stop,
            checkpoint=self._checkpoint,
            save_every=self._runtime.settings.checkpoint_seconds,
        )
        # Half a step less: rounding up must not make one more of it.
        share = min(1.0, (trial_steps - 0.5) / steps) if trial_steps < steps else 1.0
        return tune(network, images, recipe, trial_share=share, until=until, watch=watch)

    def keep(self, tuned: Tuned, recipe: Recipe, name: str) -> None:
        """Store the tuned weights with their card and a script."""
        network, _ = self._load()
        data = self._data
        export = Export(self._spec, data.name, data.class_names, data.counts, recipe, tuned)
        with self._runtime.objects.create(name) as file:
            file.write(export_zip(export, base=network))

    def drop(self) -> None:
        """Delete the checkpoint, and let network and pixels go."""
        self._checkpoint.remove()
        self._loaded = None

    def _load(self) -> tuple[Network, Images]:
        if self._loaded is None:
            runtime, data = self._runtime, self._data
            self._report("loading", 0, 0)
            network = load_on(runtime, self._spec)
            self._report("decoding", 0, 0)
            rows_N, pin = np.arange(len(data.labels_N)), runtime.device.type == "cuda"
            store = PixelStore(network.preprocess, partial(iter_images, data.shard), rows_N, pin=pin)
            self._loaded = network, Images(store, data.labels_N, len(data.class_names), data.split)
        return self._loaded


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
