"""Doing by hand what a worker does, where the API's own answers are the subject."""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update

from app.domain.errors import EvaluationFailed
from app.storage import leases
from app.storage.leases import DATASET, EVALUATION, Lease
from app.storage.repositories import selections
from app.storage.tables import Dataset, Evaluation, Model, Selection
from tests.fixtures.rows import add_model, add_ready_dataset
from tests.fixtures.service import RunningService


def add_zoo(service: RunningService, *names: str) -> list[str]:
    """Make sure that these models are active."""
    return [add_model(service.database, name) for name in names]


def make_ready(service: RunningService, tenant: str, content: str = "a") -> str:
    """Add a data set that a selection can use."""
    return add_ready_dataset(service.database, tenant=tenant, content=content)


def set_dataset(service: RunningService, dataset_id: str, **values: Any) -> None:
    """Overwrite columns of a data set, and raise its revision."""
    with service.database.write() as session:
        values |= {"revision": Dataset.revision + 1}
        session.execute(update(Dataset).where(Dataset.id == dataset_id).values(values))


def reject(service: RunningService, dataset_id: str, error: EvaluationFailed) -> None:
    """Let the preparation of an upload fail."""
    with service.database.write() as session:
        lease = leases.claim(session, DATASET, dataset_id, holder="host/0", seconds=60)
        assert lease is not None
        leases.fail(session, lease, error)


def dataset_state(service: RunningService, dataset_id: str) -> str | None:
    """Return the state of a data set's row, None when there is no row."""
    with service.database.read() as session:
        return session.scalar(select(Dataset.state).where(Dataset.id == dataset_id))


@dataclass
class SelectionWork:
    """The evaluations of one selection."""

    service: RunningService
    selection_id: str

    def claim(self, name: str, progress: dict[str, Any] | None = None, holder: str = "host/0") -> Lease:
        """Begin to evaluate a model."""
        with self.service.database.write() as session:
            mine = [Evaluation.selection_id == self.selection_id, Model.name == name]
            evaluation_id = session.scalars(select(Evaluation.id).join(Model).where(*mine)).one()
            lease = leases.claim(session, EVALUATION, evaluation_id, holder=holder, seconds=60)
            assert lease is not None
            if progress is not None:
                leases.renew(session, lease, seconds=60, progress=progress)
            selections.begin(session, self.selection_id)
        return lease

    def finish(self, name: str, scores: dict[str, float], explanation: dict[str, Any] | None = None) -> None:
        """Evaluate a model."""
        lease = self.claim(name)
        views = {key: {"value": value, "stderr": 0.01, "warnings": []} for key, value in scores.items()}
        result: dict[str, Any] = {"scores": views, "seconds": {"total": 1.5}, "cached": False}
        if explanation is not None:
            result["explanations"] = [f"scores/{self.selection_id}/{name}.json"]
            with self.service.objects.create(result["explanations"][0]) as file:
                file.write(json.dumps(explanation).encode())
        with self.service.database.write() as session:
            leases.finish(session, lease, result=result, progress={"stage": "done", "done": 4, "total": 4})

    def fail(self, name: str) -> None:
        """Find that a model cannot be evaluated."""
        lease = self.claim(name)
        error = EvaluationFailed("non_finite_features", "The features are NaN.", hint="Check the weights.")
        with self.service.database.write() as session:
            assert leases.fail(session, lease, error)

    def rank(self, ended: int, *order: str) -> None:
        """Store a ranking of these models, best first, made from so many ended evaluations."""
        with self.service.database.write() as session:
            ids = dict(tuple(row) for row in session.execute(select(Model.name, Model.id).where(Model.name.in_(order))))
            places = {
                ids[name]: {
                    "rank": place + 1,
                    "rank_interval": [1, len(order)],
                    "tie_group": 1,
                    "look": 1,
                    "accuracy": 0.9 - place / 10,
                    "probability_of_best": 0.5,
                    "probe_accuracy": {"mean": 0.9, "interval": [0.8, 1.0], "level": 0.9, "origin": "a linear probe"},
                }
                for place, name in enumerate(order)
            }
            ranking = {"verdict": f"{order[0]} leads.", "models": places, "stability": None, "evidence": {"level": 0.9}}
            everything = ended == session.get_one(Selection, self.selection_id).evaluations
            selections.settle(session, self.selection_id, ranked=ended, ranking=ranking, ended=everything)
