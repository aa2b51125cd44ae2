"""What waits, who holds what, and how much it costs to ask: the same on both databases."""

from datetime import timedelta

from sqlalchemy import insert, text, update

from app.domain.states import DatasetState
from app.storage import leases
from app.storage.database import Database
from app.storage.leases import DATASET, EVALUATION, MODEL
from app.storage.repositories import queue, workers
from app.storage.repositories.origins import origin_of, origin_of_selection
from app.storage.tables import Dataset, Evaluation, Selection, now
from tests.fixtures.rows import TENANT, add_dataset, add_model, add_selection


def depth(database: Database, kind: str, state: str) -> queue.Depth:
    with database.read() as session:
        (found,) = [one for one in queue.depths(session) if (one.kind, one.state) == (kind, state)]
    return found


def test_what_waits_is_counted_and_dated(database: Database) -> None:
    assert depth(database, "evaluation", "queued") == queue.Depth("evaluation", "queued", 0, None)
    _, evaluations = add_selection(database, "alpha", "beta")
    early = now() - timedelta(hours=2)
    with database.write() as session:
        session.execute(update(Evaluation).where(Evaluation.id == evaluations[0]).values(created_at=early))
    waiting = depth(database, "evaluation", "queued")
    assert (waiting.count, waiting.oldest) == (2, early)
    assert depth(database, "selection", "queued").count == 1


def test_what_a_worker_holds_is_known(database: Database) -> None:
    dataset_id = add_dataset(database, content="b")
    _, (evaluation_id, _) = add_selection(database, "alpha", "beta")
    model_id = add_model(database, "gamma", state="pending")
    with database.write() as session:
        workers.announce(session, "host/0", "cpu", {"torch": "2"})
        for kind, job_id in ((EVALUATION, evaluation_id), (DATASET, dataset_id), (MODEL, model_id)):
            lease = leases.claim(session, kind, job_id, holder="host/0", seconds=60)
            assert lease is not None
        leases.renew(session, lease, seconds=60, progress={"stage": "load", "done": 1, "total": 9})
    with database.read() as session:
        held = {job.id: job for job in queue.held(session)}
        tenants = queue.tenants(session)
        ((worker, silence),) = workers.known(session)
    assert {job.holder for job in held.values()} == {"host/0"}
    assert held[evaluation_id].tenant == held[dataset_id].tenant == TENANT
    assert held[model_id].tenant is None
    assert held[model_id].progress == {"stage": "load", "done": 1, "total": 9}
    assert all(abs((job.taken_at or 0) - now().timestamp()) < 60 for job in held.values())
    assert queue.TenantDepth("evaluation", TENANT, waiting=1, held=1) in tenants
    assert (worker.name, worker.versions) == ("host/0", {"torch": "2"})
    assert silence < 60


def test_a_worker_tells_its_speed_and_is_forgotten_a_day_after_it_was_lost(database: Database) -> None:
    with database.write() as session:
        workers.announce(session, "host/0", "cpu")
        workers.seen(session, "host/0", images_per_second=12.5)
    with database.write() as session:
        ((worker, _),) = workers.known(session)
        assert worker.images_per_second == 12.5
        assert workers.count_by_device(session) == {"cpu": 1}
        worker.seen_at -= 25 * 3600
    with database.write() as session:
        assert workers.count_by_device(session) == {}
        workers.announce(session, "host/1", "cuda")
        assert [row.name for row, _ in workers.known(session)] == ["host/1"]


def test_a_job_names_what_it_is_about_and_the_request_that_asked_for_it(database: Database) -> None:
    selection_id, (evaluation_id,) = add_selection(database, "alpha")
    asked = {"request_id": "r-1", "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}
    with database.write() as session:
        session.execute(update(Selection).values(asked))
    with database.read() as session:
        origin = origin_of(session, EVALUATION, evaluation_id)
        dataset_id = session.get_one(Selection, selection_id).dataset_id
        of_selection = origin_of_selection(session, selection_id)
        gone = origin_of(session, DATASET, "ds_gone")
    assert {"request_id": origin.request_id, "traceparent": origin.traceparent} == asked
    assert {"evaluation": evaluation_id, "selection": selection_id, "dataset": dataset_id}.items() <= origin.ids.items()
    assert origin.logged["request_id"] == "r-1"
    assert of_selection.ids.keys() == {"selection", "dataset", "tenant"}
    assert (gone.request_id, gone.traceparent, gone.ids) == (None, None, {})


def test_counting_what_waits_never_reads_what_has_ended(database: Database) -> None:
    """With many data sets that are ready behind one that waits, both databases go by the index on the state."""
    add_dataset(database)
    moment = {"created_at": now(), "updated_at": now()}
    ready = moment | {"tenant": TENANT, "name": "old", "state": DatasetState.READY, "bytes": 1, "failures": {}}
    with database.write() as session:
        session.execute(insert(Dataset), [ready | {"id": f"ds_{n:06}", "revision": 1} for n in range(20_000)])
    with database.writing_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE datasets"))
    counting = (
        "SELECT state, count(*), min(created_at) FROM datasets"
        " WHERE state IN ('receiving', 'received', 'preparing', 'deleting') GROUP BY state"
    )
    with database.read() as session:
        explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
        plan = " ".join(str(row) for row in session.execute(text(explain + counting)))
    assert depth(database, "dataset", "received").count == 1
    assert "ix_datasets_work" in plan, plan
    assert "Seq Scan" not in plan
