"""A database full of open and ended evaluations, for measurements: rows as the service itself makes them."""

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy import insert, text

from app.domain.ids import new_id
from app.domain.quotas import Quotas
from app.domain.states import DatasetState, EvaluationState, SelectionState
from app.storage.database import Database
from app.storage.repositories.datasets import Datasets
from app.storage.repositories.tenants import Tenants
from app.storage.tables import Base, Evaluation, Selection, now
from tests.fixtures.rows import add_model

_TOGETHER = 2_000


def fill(database: Database, *, tenants: int, models: int, open_evaluations: int, ended_evaluations: int) -> None:
    """Add selections over all models until there are so many evaluations; a few of the open ones were rung.

    Args:
        database: migrated and empty.
        tenants: who own one data set each; the first one has half of all selections.
        models: in the zoo.
        open_evaluations: that wait for a worker.
        ended_evaluations: with results, of selections that are done.
    """
    model_ids = [add_model(database, f"model-{number}") for number in range(models)]
    datasets = {f"tenant-{number}": _add_dataset(database, f"tenant-{number}") for number in range(tenants)}
    for state, wanted in (("done", ended_evaluations), ("queued", open_evaluations)):
        selections = _selections(datasets, models, wanted // models, state)
        with database.write() as session:
            for part in _parts(selections):
                session.execute(insert(Selection), part)
        evaluations = (
            _evaluation(selection, model_id, rung=number < 8)
            for number, selection in enumerate(selections)
            for model_id in model_ids
        )
        for part in _parts(evaluations):
            with database.write() as session:
                session.execute(insert(Evaluation), part)
    analyze(database)


def analyze(database: Database) -> None:
    """Let the planner know what there is, as PostgreSQL's autovacuum does."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE" if database.is_sqlite else "VACUUM ANALYZE"))


def empty(database: Database) -> None:
    """Delete every row."""
    with database.write() as session:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(table.delete())


def result() -> dict[str, Any]:
    """Return the result of an evaluation with twelve scores, as workers store it."""
    score = {"value": 0.7312345678, "stderr": 0.0212345678, "null_value": 0.1, "warnings": [], "p": 0.01}
    names = (
        "lfc", "knn", "logme", "hscore", "transrate", "sfda",
        "etran_class", "parc", "separation_index", "rsa", "dds", "gbc_diagonal",
    )  # fmt: skip
    key = {"dataset_digest": "d" * 64, "model_digest": "m" * 64, "max_images": 5000, "gradients": "random-all-200"}
    return {
        "scores": {name: {**score, "value": random.random()} for name in names},
        "seconds": {"load": 1.234, "decode": 3.456, "features": 21.345, "score": 0.456, "total": 26.491},
        "cached": False,
        "ran": ["features"],
        "precision": {"used": "float16", "wanted": "float16", "error": 0.0043, "neighbours": 1.0},
        "device": "NVIDIA A10",
        "cache_keys": [{**key, "precision": "float16"}],
        "images": {"evaluated": 1000, "in_dataset": 1000, "split": None, "near_duplicates": 3},
        "forecast": None,
        "explanations": [f"scores/{'d' * 64}/{'m' * 64}/v3.3.1-random-all-200-5000-float16.json"],
    }


def _add_dataset(database: Database, tenant: str) -> str:
    with database.write() as session:
        Tenants(session, actor="perf").create(tenant, Quotas())
        datasets = Datasets(session, tenant)
        content = random.randbytes(32).hex()
        row = datasets.receive(datasets.start("photos").id, name="photos", sha256=content, size=10)[0]
        row.state, row.digest = DatasetState.READY, content
    return row.id


def _selections(datasets: dict[str, str], models: int, number: int, state: str) -> list[dict[str, Any]]:
    tenants = list(datasets)
    rows = []
    for one in range(number):
        tenant = tenants[0] if one % 2 else tenants[one % len(tenants)]
        at = now() - timedelta(seconds=number - one)
        row = {"id": new_id("sel"), "tenant": tenant, "dataset_id": datasets[tenant], "name": "photos"}
        row |= {"state": SelectionState.DONE if state == "done" else SelectionState.QUEUED, "scores": ["lfc"]}
        row |= {"evaluations": models, "ranked": models if state == "done" else 0, "revision": 1, "warnings": []}
        rows.append(row | {"spent_seconds": 0.0, "watch": False, "created_at": at, "updated_at": at})
    return rows


def _evaluation(selection: dict[str, Any], model_id: str, *, rung: bool) -> dict[str, Any]:
    row = {"id": new_id("ev"), "tenant": selection["tenant"], "selection_id": selection["id"], "model_id": model_id}
    row |= {"look": 0, "failures": {}, "revision": 1, "created_at": selection["created_at"]}
    if selection["state"] == SelectionState.DONE:
        ended = {"state": EvaluationState.DONE, "result": result(), "ran_on": "NVIDIA A10", "rung_at": None}
        return row | ended | {"updated_at": selection["updated_at"]}
    rung_at = now().timestamp() if rung else None
    waiting = {"state": EvaluationState.QUEUED, "result": None, "ran_on": None, "rung_at": rung_at}
    return row | waiting | {"updated_at": selection["updated_at"]}


def _parts(rows: Any) -> Iterator[list[dict[str, Any]]]:
    part: list[dict[str, Any]] = []
    for row in rows:
        part.append(row)
        if len(part) == _TOGETHER:
            yield part
            part = []
    if part:
        yield part
