"""A fine-tune: some models really trained on one data set, their accuracy measured, the tuned weights kept."""

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from app.domain.errors import EvaluationFailed
from app.domain.finetuning import Recipe
from app.domain.interruption import Interrupted
from app.domain.model_spec import ModelSpec
from app.domain.states import FINETUNE_TERMINAL
from app.ingest.shard import iter_images, read_labels
from app.storage import leases
from app.storage.leases import Lease, LeaseLost
from app.storage.purge import delete_unreferenced
from app.storage.tables import Dataset, Finetune, Model, now
from workers.finetune.export import Export, export_zip
from workers.finetune.pixels import PixelStore
from workers.finetune.split import Split, split_images
from workers.finetune.step_time import measure_step
from workers.finetune.stored_checkpoint import StoredCheckpoint
from workers.finetune.tuning import Images, Tuned, Watch, tune
from workers.lease import HeldLease
from workers.near_duplicates import near_duplicate_units
from workers.runtime import Runtime
from workers.zoo.network import Network, load_network
from workers.zoo.sources import cached_weights

_SAVE_EVERY_SECONDS = 60.0
_UNKNOWN: dict[str, Any] = {
    "learning_rate": None,
    "test_accuracy": None,
    "interval": None,
    "interval_level": None,
    "steps": 0,
    "step_seconds": None,
    "trials": [],
    "curve": [],
    "warnings": [],
    "object": None,
    "error": None,
}


@dataclass(frozen=True)
class Candidate:
    """A model to be trained."""

    id: str
    name: str
    spec: ModelSpec


@dataclass(frozen=True)
class Task:
    """What is to be trained on what; ``known`` is what was stored of it before."""

    id: str
    dataset_name: str
    dataset_digest: str
    candidates: tuple[Candidate, ...]
    recipe: Recipe
    known: dict[str, Any] | None

    def checkpoint(self, candidate: Candidate) -> str:
        """Return the object from which a training goes on."""
        return f"finetunes/{self.dataset_digest}/{self.id}/{candidate.id}.checkpoint"

    def weights(self, candidate: Candidate) -> str:
        """Return the object of the tuned weights, their card and a script."""
        return f"finetunes/{self.dataset_digest}/{self.id}/{candidate.id}.zip"


def finetune(runtime: Runtime, lease: Lease, held: HeldLease) -> None:
    """Train every model of a fine-tune that is not trained yet, and store what became of it after each.

    A model that cannot be trained says why, and spoils no other.

    Raises:
        EvaluationFailed: the data set cannot be split, or no model could be trained.
        Interrupted: the worker is to stop; whoever takes the job goes on from the last checkpoint.
        LeaseLost: nothing was stored.
    """
    task = _begin(runtime, lease)
    try:
        _train_all(runtime, lease, held, task)
    except (Interrupted, LeaseLost):
        with runtime.database.read() as session:
            was_cancelled = session.get_one(Finetune, task.id).state in FINETUNE_TERMINAL
        if was_cancelled:
            for candidate in task.candidates:
                runtime.objects.delete(task.checkpoint(candidate))
        # The data set may have been deleted while weights were being stored.
        delete_unreferenced(runtime.database, runtime.objects, task.dataset_digest)
        raise


def _train_all(runtime: Runtime, lease: Lease, held: HeldLease, task: Task) -> None:
    with runtime.objects.as_file(f"datasets/{task.dataset_digest}.parquet") as shard:
        labels_N, class_names, splits = read_labels(shard)
        units_N = near_duplicate_units(iter_images(shard))
        split = split_images(labels_N, split_names=splits, units_N=units_N, seed=task.recipe.seed)
        result = task.known or {"device": str(runtime.device), "images": _counts(split), "models": []}
        for candidate in task.candidates[len(result["models"]) :]:
            started = time.monotonic()
            job = _Job(runtime, held, task, candidate, shard, labels_N, class_names, split)
            try:
                entry = job.run()
            except EvaluationFailed as error:
                entry = _UNKNOWN | {"verdict": "failed", "error": error.as_dict(), "full_steps": job.full_steps}
            entry |= {"model": candidate.id, "name": candidate.name, "seconds": round(time.monotonic() - started, 3)}
            result = result | {"models": [*result["models"], entry]}
            with runtime.database.write() as session:
                leases.note(session, lease, result=result)
    errors = [entry["error"] for entry in result["models"] if entry["error"]]
    if len(errors) == len(result["models"]):
        first = errors[0]
        raise EvaluationFailed(first["code"], first["message"], param=first["param"], hint=first["hint"])
    with runtime.database.write() as session:
        leases.finish(session, lease, result=result, finished_at=now(), progress=None)


class _Job:
    """The training of one model."""

    def __init__(
        self,
        runtime: Runtime,
        held: HeldLease,
        task: Task,
        candidate: Candidate,
        shard: Path,
        labels_N: np.ndarray[Any, np.dtype[np.int64]],
        class_names: list[str],
        split: Split,
    ) -> None:
        self._runtime, self._held, self._task, self._candidate = runtime, held, task, candidate
        self._shard, self._labels_N, self._class_names, self._split = shard, labels_N, class_names, split
        self.full_steps = task.recipe.steps(len(split.train_T))

    def run(self) -> dict[str, Any]:
        """Train, test, and keep the weights; return the entry of the result."""
        runtime, recipe, spec = self._runtime, self._task.recipe, self._candidate.spec
        self._report("loading", 0, 0)
        network = load_network(spec, cached_weights(spec.source, runtime.settings.weights), runtime.device)
        self._report("decoding", 0, len(self._labels_N))
        rows_N = np.arange(len(self._labels_N))
        pin = runtime.device.type == "cuda"
        store = PixelStore(network.preprocess, partial(iter_images, self._shard), rows_N, pin=pin)
        images = Images(store, self._labels_N, len(self._class_names), self._split)
        step = measure_step(network, images.num_classes, recipe, should_stop=self._held.should_stop)
        name = self._task.checkpoint(self._candidate)
        checkpoint = StoredCheckpoint(runtime.objects, name, runtime.workspace, spec.digest)
        watch = Watch(
            on_progress=lambda done, total: self._report("training", done, total),
            should_stop=self._held.should_stop,
            checkpoint=checkpoint,
            save_every=_SAVE_EVERY_SECONDS,
        )
        tuned = tune(network, images, recipe, watch=watch)
        entry = self._entry(tuned) | {
            "step_seconds": step.seconds,
            "object": None if tuned.weights is None else self._keep(tuned, network),
        }
        checkpoint.remove()
        return entry

    def _entry(self, tuned: Tuned) -> dict[str, Any]:
        curves = tuned.curves
        return _UNKNOWN | {
            "verdict": tuned.verdict,
            "learning_rate": tuned.learning_rate,
            "test_accuracy": tuned.test_accuracy,
            "interval": tuned.interval,
            "interval_level": tuned.as_dict()["interval_level"],
            "steps": sum(trial.steps for trial in tuned.trials),
            "full_steps": self.full_steps,
            "trials": [asdict(trial) for trial in tuned.trials],
            "curve": [asdict(point) for point in curves.points] if curves else [],
            "warnings": list(self._split.warnings),
        }

    def _keep(self, tuned: Tuned, network: Network) -> str:
        """Store the weights with their card and script; return the object's name."""
        export = Export(
            spec=self._candidate.spec,
            dataset_name=self._task.dataset_name,
            class_names=self._class_names,
            images=_counts(self._split),
            recipe=self._task.recipe,
            tuned=tuned,
        )
        name = self._task.weights(self._candidate)
        with self._runtime.objects.create(name) as file:
            file.write(export_zip(export, base=network))
        return name

    def _report(self, stage: str, done: int, total: int) -> None:
        self._held.report(f"{self._candidate.name}: {stage}", done, total)


def _begin(runtime: Runtime, lease: Lease) -> Task:
    with runtime.database.write() as session:
        row = session.get_one(Finetune, lease.id)
        dataset = session.get_one(Dataset, row.dataset_id)
        if row.started_at is None:
            leases.note(session, lease, started_at=now())
        candidates = []
        for model_id in row.model_ids:
            model = session.get_one(Model, model_id)
            assert model.facts is not None  # only active models come into a fine-tune
            candidates.append(Candidate(model.id, model.name, ModelSpec.from_dict(model.facts["resolved"])))
    assert dataset.digest is not None  # only ready data sets do
    return Task(row.id, dataset.name, dataset.digest, tuple(candidates), Recipe.from_dict(row.recipe), row.result)


def _counts(split: Split) -> dict[str, int]:
    return {"train": len(split.train_T), "validation": len(split.validation_V), "test": len(split.test_S)}
