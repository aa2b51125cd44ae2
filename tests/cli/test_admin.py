"""``foretune admin`` shows what waits and who works."""

import json
import signal

from sqlalchemy import delete, select

from app.client import Foretune
from app.storage import leases
from app.storage.leases import EVALUATION
from app.storage.repositories.workers import announce, retire
from app.storage.tables import Dataset, Model, ModelEvent, Selection
from tests.cli.conftest import Served, start
from tests.fixtures.rows import TENANT, add_selection


def busy(served: Served) -> str:
    """Let a worker hold one of two evaluations, and return its id."""
    with served.database.write() as session:
        announce(session, "gpu-3/0", "NVIDIA H100", {"foretune": "0.1.0"})
    _, (evaluation_id, _) = add_selection(served.database, "admin-alpha", "admin-beta")
    with served.database.write() as session:
        lease = leases.claim(session, EVALUATION, evaluation_id, holder="gpu-3/0", seconds=600)
        assert lease is not None
        leases.renew(session, lease, seconds=600, progress={"stage": "extracting", "done": 40, "total": 80})
    return evaluation_id


def idle(served: Served) -> None:
    """Remove what ``busy`` added."""
    with served.database.write() as session:
        session.execute(delete(Selection).where(Selection.tenant == TENANT))
        session.execute(delete(Dataset).where(Dataset.tenant == TENANT))
        mine = select(Model.id).where(Model.name.in_(("admin-alpha", "admin-beta")))
        session.execute(delete(ModelEvent).where(ModelEvent.model_id.in_(mine)))
        session.execute(delete(Model).where(Model.id.in_(mine)))
        retire(session, "gpu-3/0")


def test_the_queue_and_the_workers_are_shown(served: Served, client: Foretune) -> None:
    before = next((kind.waiting for kind in client.operations.queue().kinds if kind.kind == "evaluation"), 0)
    evaluation_id = busy(served)
    try:
        queue = served.run("admin", "queue")
        workers = served.run("admin", "workers")
        as_json = served.run("admin", "workers", "--json").json
        (worker,) = client.operations.workers()
    finally:
        idle(served)
    assert queue.code == workers.code == 0
    counts = next(line.split() for line in queue.out.splitlines() if line.startswith("evaluation"))
    assert counts[:3] == ["evaluation", str(before + 1), "1"]
    assert "acme" in queue.out
    (line,) = [line for line in workers.out.splitlines() if line.startswith("gpu-3/0")]
    assert "busy" in line
    assert "NVIDIA H100" in line
    assert evaluation_id in line
    assert "extracting" in line
    assert "40/80" in line
    assert as_json[0]["holds"][0]["id"] == evaluation_id
    assert worker.holds[0].progress is not None
    assert worker.holds[0].progress.done == 40
    assert "foretune worker" in served.run("admin", "workers").out


def test_it_is_for_admins(served: Served, client: Foretune) -> None:
    key = client.keys.create("reader", scopes=["read"]).key
    process = start("admin", "queue", url=served.url, key=key, home=str(served.home))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "missing_scope" in err


def test_it_goes_on_showing_changes_until_ctrl_c(served: Served) -> None:
    process = start("admin", "queue", "--watch", "--json", url=served.url, home=str(served.home))
    assert process.stdout is not None
    try:
        before = json.loads(process.stdout.readline())
        busy(served)
        after = json.loads(process.stdout.readline())
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        idle(served)
    assert before["held"] == []
    assert after != before
    assert (process.returncode, err) == (130, "")
