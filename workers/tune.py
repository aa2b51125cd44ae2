"""A fine-tune: some models really trained on one data set, their accuracy measured, the tuned weights kept.

Without a budget every model is trained to the end. With one, all are trained a little, and the best on the validation
images go on (``workers.finetune.halving``). The plan is stored before the first step, and every training has a
checkpoint, so that whoever takes the job after a lost worker goes on where it was.
"""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

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
from workers.finetune.contestant import Contestant, Data, outcome, standing
from workers.finetune.halving import Rung, plan_halving, survivors
from workers.finetune.split import split_images
from workers.finetune.tuning import Tuned
from workers.lease import HeldLease
from workers.near_duplicates import near_duplicate_units
from workers.runtime import Runtime

_LEAST_STEPS = 20
"""Of the first rung of a budget: before, models hardly differ."""


@dataclass(frozen=True)
class Candidate:
    """A model to be trained."""

    id: str
    name: str
    spec: ModelSpec


@dataclass(frozen=True)
class Task:
    """What is to be trained on what; ``result`` is what was stored of it before, ``spent`` the seconds it took."""

    id: str
    dataset_name: str
    dataset_digest: str
    candidates: tuple[Candidate, ...]
    recipe: Recipe
    budget_seconds: float | None
    result: dict[str, Any] | None
    spent: float

    def checkpoint(self, candidate: Candidate) -> str:
        """Return the object from which a training goes on."""
        return f"finetunes/{self.dataset_digest}/{self.id}/{candidate.id}.checkpoint"

    def weights(self, candidate: Candidate) -> str:
        """Return the object of the tuned weights, their card and a script."""
        return f"finetunes/{self.dataset_digest}/{self.id}/{candidate.id}.zip"


def finetune(runtime: Runtime, lease: Lease, held: HeldLease) -> None:
    """Train the models of a fine-tune, and store what became of each.

    A model that cannot be trained says why, and spoils no other.

    Raises:
        EvaluationFailed: the data set cannot be split, the budget is too small, or no model could be trained.
        Interrupted: the worker is to stop; whoever takes the job goes on from the last checkpoint.
        LeaseLost: nothing more was stored.
    """
    began_at = time.monotonic()
    task = _begin(runtime, lease)
    try:
        with runtime.objects.as_file(f"datasets/{task.dataset_digest}.parquet") as shard:
            labels_N, class_names, splits = read_labels(shard)
            units_N = near_duplicate_units(iter_images(shard))
            split = split_images(labels_N, split_names=splits, units_N=units_N, seed=task.recipe.seed)
            data = Data(task.dataset_name, shard, labels_N, class_names, split)
            _Contest(runtime, lease, held, task, data, began_at).run()
    except (Interrupted, LeaseLost):
        with runtime.database.read() as session:
            was_cancelled = session.get_one(Finetune, task.id).state in FINETUNE_TERMINAL
        if was_cancelled:
            for candidate in task.candidates:
                runtime.objects.delete(task.checkpoint(candidate))
        # The data set may have been deleted while weights were being stored.
        delete_unreferenced(runtime.database, runtime.objects, task.dataset_digest)
        raise


class _Contest:
    """The models of a fine-tune, rung by rung."""

    def __init__(
        self, runtime: Runtime, lease: Lease, held: HeldLease, task: Task, data: Data, began_at: float
    ) -> None:
        self._runtime, self._lease, self._held, self._task, self._data = runtime, lease, held, task, data
        self._began_at = began_at
        self._result: dict[str, Any] = task.result or {
            "device": str(runtime.device),
            "images": data.counts,
            "plan": None,
            "models": [],
        }
        self._by_id = {candidate.id: candidate for candidate in task.candidates}
        ended = {entry["model"] for entry in self._result["models"]}
        self._open = {
            candidate.id: self._contestant(candidate) for candidate in task.candidates if candidate.id not in ended
        }

    def run(self) -> None:
        """Train until every model has ended, and end the job."""
        rungs, recipe = self._plan()
        for number, rung in enumerate(rungs):
            is_last = number == len(rungs) - 1
            found: dict[str, Tuned] = {}
            for model_id in list(self._open):
                started = time.monotonic()
                try:
                    tuned = self._open[model_id].train(recipe, trial_steps=rungs[0].steps, until=rung.steps)
                except EvaluationFailed as error:
                    self._end(model_id, _failed(error))
                    continue
                found[model_id] = tuned
                self._add_seconds(model_id, time.monotonic() - started)
                if is_last or tuned.verdict == "diverged":
                    self._finish(model_id, tuned, recipe)
                    del found[model_id]
                else:
                    self._note()
            if not is_last:
                going_on = survivors({name: standing(tuned) for name, tuned in found.items()}, rungs[number + 1].models)
                for model_id in set(found) - set(going_on):
                    self._end(model_id, outcome(found[model_id]) | {"verdict": "given_up"})
        entries = self._result["models"]
        if all(entry["error"] for entry in entries):
            first = entries[0]["error"]
            raise EvaluationFailed(first["code"], first["message"], param=first["param"], hint=first["hint"])
        self._result["models"] = sorted(entries, key=_order)
        with self._runtime.database.write() as session:
            leases.finish(session, self._lease, result=self._result, finished_at=now(), progress=None)

    def _plan(self) -> tuple[list[Rung], Recipe]:
        """Return the rungs, and the recipe with the number of steps of the last; decided once and stored."""
        task, plan = self._task, self._result["plan"]
        steps = task.recipe.steps(len(self._data.split.train_T))
        if plan is None:
            entrants = []
            for model_id in list(self._open):
                try:
                    entrants.append(self._open[model_id].entrant(model_id, task.recipe))
                except EvaluationFailed as error:
                    self._end(model_id, _failed(error))
            if task.budget_seconds is None or not entrants:
                rungs = [Rung(steps, len(entrants))]
            else:
                found = plan_halving(
                    entrants,
                    budget_seconds=task.budget_seconds,
                    spent_seconds=task.spent + time.monotonic() - self._began_at,
                    full_steps=steps,
                    least_steps=_LEAST_STEPS,
                )
                rungs = list(found.rungs)
            seconds = {entrant.name: self._open[entrant.name].step_time for entrant in entrants}
            self._result["plan"] = plan = {
                "rungs": [asdict(rung) for rung in rungs],
                "step_seconds": {name: time.seconds for name, time in seconds.items() if time is not None},
                "seconds": {},
            }
            self._note()
        rungs = [Rung(**rung) for rung in plan["rungs"]]
        last = rungs[-1].steps
        return rungs, task.recipe if last >= steps else replace(task.recipe, max_steps=last)

    def _finish(self, model_id: str, tuned: Tuned, recipe: Recipe) -> None:
        """Keep what a model has learned, and end it."""
        entry = outcome(tuned) | {"object": None}
        if tuned.weights is not None:
            name = self._task.weights(self._by_id[model_id])
            self._held.report(f"{self._by_id[model_id].name}: storing", 0, 0)
            self._open[model_id].keep(tuned, recipe, name)
            entry["object"] = name
        self._end(model_id, entry)

    def _end(self, model_id: str, entry: dict[str, Any]) -> None:
        plan = self._result["plan"] or {"step_seconds": {}, "seconds": {}}
        self._result["models"] = [
            *self._result["models"],
            _EMPTY
            | entry
            | {
                "model": model_id,
                "name": self._by_id[model_id].name,
                "full_steps": self._task.recipe.steps(len(self._data.split.train_T)),
                "step_seconds": plan["step_seconds"].get(model_id),
                "seconds": plan["seconds"].get(model_id, 0.0),
                "warnings": list(self._data.split.warnings),
            },
        ]
        self._note()
        self._open.pop(model_id).drop()

    def _add_seconds(self, model_id: str, seconds: float) -> None:
        known = self._result["plan"]["seconds"]
        known[model_id] = round(known.get(model_id, 0.0) + seconds, 3)

    def _note(self) -> None:
        """Store what is known by now."""
        with self._runtime.database.write() as session:
            leases.note(session, self._lease, result=self._result)

    def _contestant(self, candidate: Candidate) -> Contestant:
        return Contestant(
            self._runtime,
            self._data,
            candidate.spec,
            self._task.checkpoint(candidate),
            lambda stage, done, total: self._held.report(f"{candidate.name}: {stage}", done, total),
            self._held.should_stop,
        )


_EMPTY: dict[str, Any] = {
    "learning_rate": None,
    "test_accuracy": None,
    "interval": None,
    "interval_level": None,
    "steps": 0,
    "trials": [],
    "curve": [],
    "object": None,
    "error": None,
}


def _failed(error: EvaluationFailed) -> dict[str, Any]:
    return {"verdict": "failed", "error": error.as_dict()}


def _order(entry: dict[str, Any]) -> tuple[bool, float, int]:
    """Order models: tested ones by their accuracy, then those that came farthest."""
    return entry["test_accuracy"] is None, -(entry["test_accuracy"] or 0.0), -entry["steps"]


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
    return Task(
        id=row.id,
        dataset_name=dataset.name,
        dataset_digest=dataset.digest,
        candidates=tuple(candidates),
        recipe=Recipe.from_dict(row.recipe),
        budget_seconds=row.budget_seconds,
        result=row.result,
        spent=row.spent_seconds,
    )
