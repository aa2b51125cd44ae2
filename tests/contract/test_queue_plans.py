"""PostgreSQL's plans of what is asked of a long queue: nothing that is asked for each job reads all of them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.storage import doorbells, fair_order, leases
from app.storage.database import Database
from app.storage.leases import EVALUATION
from app.storage.migrate import upgrade
from app.storage.repositories import due_rankings, queue
from app.storage.repositories.evaluations import asked, next_of_model
from app.storage.tables import Evaluation
from perf.claim import claim, statements_of
from perf.open_evaluations import fill
from tests.fixtures.service import own_database

OPEN, ENDED, MODELS = 20_000, 2_000, 50
READS_ALL = "Seq Scan on public.evaluations"


@pytest.fixture(scope="module")
def busy(postgres_url: str) -> Iterator[Database]:
    """Yield a PostgreSQL database with a long queue, whose planner knows that."""
    with own_database(postgres_url, "busy") as url:
        database = Database(url)
        upgrade(database)
        fill(database, tenants=20, models=MODELS, open_evaluations=OPEN, ended_evaluations=ENDED)
        yield database
        database.close()


def one_of(session: Session) -> Any:
    """Return some open evaluation, found by an index."""
    columns = Evaluation.id, Evaluation.model_id, Evaluation.selection_id
    return session.execute(
        select(*columns).where(leases.is_open(EVALUATION)).order_by(Evaluation.tenant).limit(1)
    ).one()


def ring(session: Session) -> None:
    leases.free_expired(session, EVALUATION)
    assert doorbells.ring_due(session, EVALUATION, ring_again_seconds=0, limit=16)


ASKED: dict[str, Callable[[Session], Any]] = {
    "look for work": lambda session: fair_order.waits(session, EVALUATION),
    "next of a model": lambda session: next_of_model(session, one_of(session).model_id),
    "what it is about": lambda session: asked(session, one_of(session).id),
    "anything to ring": lambda session: doorbells.has_due(session, EVALUATION, ring_again_seconds=20, limit=16),
    "ring": ring,
    "is a ranking due": lambda session: due_rankings.is_due(session, one_of(session).selection_id),
    "held jobs": queue.held,
}


def plans(database: Database, statements: list[tuple[str, Any]]) -> str:
    found = []
    with database.engine.connect() as connection:
        for statement, parameters in statements:
            if "evaluations" in statement:
                rows = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, VERBOSE) {statement}", parameters)
                found.append("\n".join([statement, *(row[0] for row in rows)]))
    return "\n\n".join(found)


def test_a_claim_reads_indexes(busy: Database) -> None:
    with statements_of(busy) as statements:
        claim(busy)
    plan = plans(busy, statements)
    assert READS_ALL not in plan, plan
    assert plan.count("using ix_evaluations_work") >= 3, plan
    assert "using pk_evaluations" in plan, plan
    assert "Sort Key: evaluations" not in plan, plan


@pytest.mark.parametrize("name", ASKED)
def test_what_each_job_and_each_sweep_asks_reads_indexes(busy: Database, name: str) -> None:
    with statements_of(busy) as statements, busy.write() as session:
        ASKED[name](session)
    plan = plans(busy, statements)
    assert "evaluations" in plan
    assert READS_ALL not in plan, plan
