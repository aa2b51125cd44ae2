"""The models of a fine-tune, trained rung by rung; what is known is stored as soon as it is.

Without a budget every model is trained to the end. With one, all are trained a little, and the best on the validation
images go on (``workers.finetune.halving``); if the budget is spent before that is over, the best is tested as it is.
The plan is stored before the first step, and every training has a checkpoint, so that whoever takes the job after a
lost worker goes on where it was. Of several models, one network is in memory at a time.
"""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from app.domain.errors import EvaluationFailed, ForetuneError, ModelRejected
from app.domain.finetuning import Recipe
from app.domain.model_spec import ModelSpec
from app.domain.states import RETRY_BUDGET
from app.storage import leases
from app.storage.leases import Lease
from app.storage.tables import now
from workers.finetune.contestant import Contestant, outcome, standing
from workers.finetune.data import Data, SharedPixels
from workers.finetune.halving import Rung, plan_halving, survivors
from workers.finetune.tuning import Tuned
from workers.lease import HeldLease
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


class Contest:
    """A fine-tune under way."""

    def __init__(
        self, runtime: Runtime, lease: Lease, held: HeldLease, task: Task, data: Data, began_at: float
    ) -> None:
        """Begin where an earlier worker left off, or anew.

        Args:
            runtime: of this worker.
            lease: the right to end the job.
            held: told of the progress, and asked whether to stop.
            task: what is to be trained.
            data: on what.
            began_at: of the monotonic clock, when the job was claimed.
        """
        self._runtime, self._lease, self._held, self._task, self._data = runtime, lease, held, task, data
        self._began_at = began_at
        self._result: dict[str, Any] = task.result or {
            "device": str(runtime.device),
            "images": data.counts,
            "plan": None,
            "models": [],
        }
        entries = self._result["models"]
        if len(entries) == len(task.candidates) and all(entry["error"] for entry in entries):
            # The job was opened once more after an error that may pass: what met it is begun anew.
            failed = [entry for entry in entries if entry["error"]["code"] not in RETRY_BUDGET]
            self._result |= {"plan": None, "models": failed}
        self._pixels = SharedPixels(runtime, data, held.should_stop)
        self._by_id = {candidate.id: candidate for candidate in task.candidates}
        ended = {entry["model"] for entry in self._result["models"]}
        self._open = {
            candidate.id: self._contestant(candidate) for candidate in task.candidates if candidate.id not in ended
        }

    def run(self) -> None:
        """Train until every model has ended, and end the job.

        Raises:
            EvaluationFailed: the budget is too small, or no model could be trained.
            Interrupted: the worker is to stop.
            LeaseLost: nothing more was stored.
        """
        rungs, recipe = self._plan()
        plan = self._result["plan"]
        while self._open:
            number = plan["rungs_done"]
            steps, is_last = rungs[number].steps, number == len(rungs) - 1
            paused = self._train(recipe, trial_steps=rungs[0].steps, until=steps, test=is_last)
            if is_last or not paused:
                break
            is_spent = self._task.budget_seconds is not None and self._spent() >= self._task.budget_seconds
            standings = {model_id: standing(tuned) for model_id, tuned in paused.items()}
            going_on = survivors(standings, 1 if is_spent else rungs[number + 1].models)
            for model_id in set(paused) - set(going_on):
                self._end(model_id, outcome(paused[model_id]) | {"verdict": "given_up"})
            if is_spent:
                self._train(recipe, trial_steps=rungs[0].steps, until=steps, test=True)
                break
            plan["rungs_done"] = number + 1
            self._note()
        entries = self._result["models"]
        if all(entry["error"] for entry in entries):
            first = entries[0]["error"]
            raise EvaluationFailed(first["code"], first["message"], param=first["param"], hint=first["hint"])
        self._result["models"] = sorted(entries, key=_order)
        with self._runtime.database.write() as session:
            leases.finish(session, self._lease, result=self._result, finished_at=now(), progress=None)

    def _train(self, recipe: Recipe, *, trial_steps: int, until: int, test: bool) -> dict[str, Tuned]:
        """Train all models that are left; end them with a test, or return how those that can go on were paused."""
        paused: dict[str, Tuned] = {}
        for model_id in list(self._open):
            started = time.monotonic()
            try:
                tuned = self._open[model_id].train(recipe, trial_steps=trial_steps, until=until, test=test)
                self._add_seconds(model_id, time.monotonic() - started)
                if test or tuned.verdict == "diverged":
                    self._finish(model_id, tuned, recipe)
                    continue
            except (EvaluationFailed, ModelRejected) as error:
                self._end(model_id, _failed(error))
                continue
            paused[model_id] = tuned
            self._unload_among_others(model_id)
            self._note()
        return paused

    def _plan(self) -> tuple[list[Rung], Recipe]:
        """Return the rungs, and the recipe with the number of steps of the last; decided once and stored."""
        task, plan = self._task, self._result["plan"]
        steps = task.recipe.steps(len(self._data.split.train_T))
        if plan is None:
            entrants = []
            for model_id in list(self._open):
                try:
                    entrants.append(self._open[model_id].entrant(model_id, task.recipe))
                    self._unload_among_others(model_id)
                except (EvaluationFailed, ModelRejected) as error:
                    self._end(model_id, _failed(error))
            if task.budget_seconds is None or not entrants:
                rungs = [Rung(steps, len(entrants))]
            else:
                found = plan_halving(
                    entrants,
                    budget_seconds=task.budget_seconds,
                    spent_seconds=self._spent(),
                    full_steps=steps,
                    least_steps=_LEAST_STEPS,
                )
                rungs = list(found.rungs)
            seconds = {entrant.name: self._open[entrant.name].step_time for entrant in entrants}
            self._result["plan"] = plan = {
                "rungs": [asdict(rung) for rung in rungs],
                "rungs_done": 0,
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

    def _unload_among_others(self, model_id: str) -> None:
        """Let the network of one of several models go, to make room for the next."""
        if len(self._open) > 1:
            self._open[model_id].unload()

    def _spent(self) -> float:
        """Return the seconds that the fine-tune has taken."""
        return self._task.spent + time.monotonic() - self._began_at

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
            self._pixels,
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


def _failed(error: ForetuneError) -> dict[str, Any]:
    return {"verdict": "failed", "error": error.as_dict()}


def _order(entry: dict[str, Any]) -> tuple[bool, float, int]:
    """Order models: tested ones by their accuracy, then those that came farthest."""
    return entry["test_accuracy"] is None, -(entry["test_accuracy"] or 0.0), -entry["steps"]
