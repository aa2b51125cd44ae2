"""Whose turn it is, on both databases: tenants in turn, each tenant's jobs as they came, and cheaply so."""

import threading
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, select, text, update

from app.domain.ids import new_id
from app.domain.quotas import Quotas
from app.storage import doorbells, fair_order, leases
from app.storage.database import Database
from app.storage.leases import DATASET, EVALUATION, MODEL, JobKind
from app.storage.repositories import worker_seconds
from app.storage.repositories.evaluations import next_of_model
from app.storage.repositories.models import Models
from app.storage.repositories.selections import Selections
from app.storage.repositories.tenants import Tenants
from app.storage.tables import Evaluation, Model, now
from tests.fixtures.rows import add_dataset, add_model, add_ready_dataset


def add_tenants(database: Database, *names: str, **quotas: Any) -> None:
    with database.write() as session:
        for name in names:
            Tenants(session, actor="test").create(name, Quotas(**quotas))


def ask(database: Database, tenant: str, content: str) -> str:
    """Ask for a selection of all models."""
    dataset_id = add_ready_dataset(database, tenant=tenant, content=content)
    with database.write() as session:
        return Selections(session, tenant).create(dataset_id, Models(session).active(), ["lfc"], None).id


def serve(database: Database, kind: JobKind = EVALUATION) -> str | None:
    """Take the job whose turn it is, as a worker does, and tell which one it was."""
    with database.write() as session:
        job_id = fair_order.take_turn(session, kind)
        if job_id is None:
            return None
        assert leases.claim(session, kind, job_id, holder="host/0", seconds=60)
        return job_id


def waits(database: Database) -> bool:
    with database.read() as session:
        return fair_order.waits(session, EVALUATION)


def owner(database: Database, evaluation_id: str | None) -> tuple[str, str]:
    with database.read() as session:
        columns = Evaluation.tenant, Evaluation.selection_id
        return tuple(session.execute(select(*columns).where(Evaluation.id == evaluation_id)).one())  # type: ignore[return-value]


def ring(database: Database, limit: int = 1000, again: float = 60) -> list[str]:
    with database.write() as session:
        return doorbells.ring_due(session, EVALUATION, ring_again_seconds=again, limit=limit)


def fill(database: Database, evaluations: int) -> None:
    """Give one tenant very many open evaluations, of which three were rung."""
    add_tenants(database, "heavy", "light")
    model_id = add_model(database, "one")
    selection_ids = [ask(database, "heavy", "a")]
    with database.write() as session:
        columns = {"tenant": "heavy", "state": "queued", "look": 0, "failures": {}, "revision": 1}
        session.execute(text("DELETE FROM evaluations"))
        made_at = now()
        rows = [
            {**columns, "id": new_id("ev"), "selection_id": selection_ids[0], "model_id": f"{model_id}-{number}"}
            | {"created_at": made_at, "updated_at": made_at, "rung_at": made_at.timestamp() if number < 3 else None}
            for number in range(evaluations)
        ]
        models = [
            {"id": row["model_id"], "name": row["model_id"], "version": 1, "spec": {}, "spec_digest": "", "tags": []}
            | {"state": "disabled", "failures": {}, "revision": 1, "created_at": made_at, "updated_at": made_at}
            for row in rows
        ]
        session.execute(insert(Model), models)
        session.execute(insert(Evaluation), rows)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


class TestFairOrder:
    def test_tenants_take_turns_whatever_they_have(self, database: Database) -> None:
        add_tenants(database, "heavy", "light")
        for number in range(6):
            add_model(database, f"model-{number}")
        for content in "abc":
            ask(database, "heavy", content)
        ask(database, "light", "d")
        served = [owner(database, serve(database))[0] for _ in range(12)]
        assert served == ["heavy", "light"] * 6
        assert [owner(database, serve(database))[0] for _ in range(3)] == ["heavy"] * 3

    def test_one_tenants_selections_are_served_as_they_came(self, database: Database) -> None:
        add_tenants(database, "acme")
        add_model(database, "one")
        add_model(database, "two")
        asked = [ask(database, "acme", content) for content in "abc"]
        served = [owner(database, serve(database))[1] for _ in range(6)]
        assert served == [selection for selection in asked for _ in range(2)]
        assert serve(database) is None

    def test_a_tenant_that_comes_later_is_next(self, database: Database) -> None:
        add_tenants(database, "early", "late")
        for name in ("one", "two", "three"):
            add_model(database, name)
        ask(database, "early", "a")
        serve(database)
        ask(database, "late", "b")
        assert owner(database, serve(database))[0] == "late"

    def test_uploads_and_models_have_their_order_too(self, database: Database) -> None:
        add_tenants(database, "heavy", "light")
        uploads = [add_dataset(database, tenant="heavy", content=content) for content in "ab"]
        uploads.append(add_dataset(database, tenant="light", content="c"))
        assert [serve(database, DATASET) for _ in range(3)] == [uploads[0], uploads[2], uploads[1]]
        assert serve(database, MODEL) is None

    def test_who_spent_the_day_or_is_suspended_waits(self, database: Database) -> None:
        add_tenants(database, "spent", worker_seconds_per_day=5)
        add_tenants(database, "suspended", "other")
        model_id = add_model(database, "one")
        for tenant, content in (("spent", "a"), ("suspended", "b"), ("other", "c")):
            ask(database, tenant, content)
        with database.write() as session:
            worker_seconds.charge(session, "spent", 6)
            Tenants(session, actor="test").change("suspended", quotas={}, suspended=True)
        assert [owner(database, one)[0] for one in ring(database)] == ["other"]
        assert owner(database, serve(database))[0] == "other"
        assert serve(database) is None
        with database.write() as session:
            assert not fair_order.waits(session, EVALUATION)
            assert not doorbells.has_due(session, EVALUATION, ring_again_seconds=60)
            assert next_of_model(session, model_id) is None
            Tenants(session, actor="test").change("spent", quotas={"worker_seconds_per_day": 7}, suspended=None)
        assert owner(database, serve(database))[0] == "spent"

    def test_many_workers_share_the_turns_and_no_job_is_taken_twice(self, database: Database) -> None:
        add_tenants(database, "heavy", "light")
        for number in range(5):
            add_model(database, f"model-{number}")
        for content in "abc":
            ask(database, "heavy", content)
        ask(database, "light", "d")
        taken: list[str] = []

        def work() -> None:
            while waits(database):
                # None where another worker was quicker to take a tenant's last job, while more of others wait.
                if (job_id := serve(database)) is not None:
                    taken.append(job_id)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == len(set(taken)) == 20


class TestDoorbells:
    def test_no_more_are_on_their_way_than_are_of_use(self, database: Database) -> None:
        add_tenants(database, "heavy", "light")
        for number in range(8):
            add_model(database, f"model-{number}")
        ask(database, "heavy", "a")
        ask(database, "light", "b")
        rung = ring(database, limit=6)
        assert sorted(owner(database, one)[0] for one in rung) == ["heavy"] * 3 + ["light"] * 3
        assert ring(database, limit=6) == []
        with database.write() as session:
            leases.claim(session, EVALUATION, rung[0], holder="host/0", seconds=60)
        assert len(ring(database, limit=6)) == 1

    def test_a_bell_answered_by_another_job_is_passed_on(self, database: Database) -> None:
        add_tenants(database, "acme")
        for name in ("one", "two", "three"):
            add_model(database, name)
        ask(database, "acme", "a")
        first, second = ring(database, limit=2)
        taken = serve(database)
        assert taken == first
        with database.write() as session:
            doorbells.pass_on(session, EVALUATION, second, taken)
        third = set(ring(database, limit=2)) - {first, second}
        assert len(third) == 1, "the second one still has the doorbell of the first, and there is room for one more"
        unrung = next(iter(third))
        with database.write() as session:
            session.execute(update(Evaluation).where(Evaluation.id == unrung).values(rung_at=None))
            assert leases.claim(session, EVALUATION, unrung, holder="host/0", seconds=60)
            doorbells.pass_on(session, EVALUATION, second, unrung)
        assert ring(database, limit=2) == [second]


OPEN = 3_000


@pytest.mark.parametrize("act", ["take_turn", "ring_due"])
def test_finding_a_turn_reads_no_more_than_it_takes(database: Database, act: str) -> None:
    fill(database, OPEN)
    with database.read() as session:
        session.execute(select(1))
    statements: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        assert serve(database) if act == "take_turn" else ring(database, limit=10)
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    looked = [one for one in statements if "evaluations" in one[0] and one[0].lstrip().startswith(("SELECT", "WITH"))]
    assert looked
    with database.engine.connect() as connection:
        for statement, parameters in looked:
            plan = _plan(connection, database, statement, parameters)
            assert "SCAN evaluations" not in plan.replace("SCAN evaluations USING COVERING INDEX", ""), plan
            assert "Seq Scan on evaluations" not in plan, plan
            assert "TEMP B-TREE FOR ORDER BY" not in plan or "found" in statement, plan


def _plan(connection: Connection, database: Database, statement: str, parameters: Any) -> str:
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    return "\n".join(str(row) for row in connection.exec_driver_sql(explain + statement, parameters))
