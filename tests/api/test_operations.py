"""What admins see of the queue and of the workers."""

import httpx

from app.storage.repositories.workers import announce, retire
from app.storage.tables import Worker
from tests.api.worker import SelectionWork, add_zoo, make_ready
from tests.fixtures.service import RunningService


def test_the_queue_tells_what_waits_whose_it_is_and_who_holds_it(
    service: RunningService, user: httpx.Client, admin: httpx.Client, tenant: str
) -> None:
    before = {kind["kind"]: kind for kind in admin.get("/v1/queue").json()["kinds"]}
    dataset_id = make_ready(service, tenant)
    add_zoo(service, "alpha", "beta")
    asked = {"dataset": dataset_id, "models": ["alpha", "beta"]}
    selection_id = user.post("/v1/selections", json=asked).json()["id"]
    SelectionWork(service, selection_id).claim("alpha", progress={"stage": "extracting", "done": 3, "total": 9})
    queue = admin.get("/v1/queue").json()
    after = {kind["kind"]: kind for kind in queue["kinds"]}
    assert set(after) == {"dataset", "model", "evaluation", "finetune"}
    assert after["evaluation"]["waiting"] == before["evaluation"]["waiting"] + 1
    assert after["evaluation"]["held"] == before["evaluation"]["held"] + 1
    assert after["evaluation"]["oldest_waiting_seconds"] >= 0
    assert {"tenant": tenant, "kind": "evaluation", "waiting": 1, "held": 1} in queue["tenants"]
    (job,) = [job for job in queue["held"] if job["tenant"] == tenant]
    assert (job["kind"], job["worker"]) == ("evaluation", "host/0")
    assert job["progress"] == {"stage": "extracting", "done": 3, "total": 9}


def test_the_workers_tell_what_they_hold_and_whether_they_are_alive(
    service: RunningService, user: httpx.Client, admin: httpx.Client, tenant: str
) -> None:
    with service.database.write() as session:
        for name in ("busy/0", "idle/0", "lost/0"):
            announce(session, name, "cpu", {"foretune": "0.1.0"})
        session.get_one(Worker, "lost/0").seen_at -= 60
        session.get_one(Worker, "idle/0").images_per_second = 7.5
    dataset_id = make_ready(service, tenant)
    add_zoo(service, "alpha")
    selection_id = user.post("/v1/selections", json={"dataset": dataset_id, "models": ["alpha"]}).json()["id"]
    SelectionWork(service, selection_id).claim("alpha", holder="busy/0")
    try:
        workers = {worker["name"]: worker for worker in admin.get("/v1/workers").json()["data"]}
    finally:
        with service.database.write() as session:
            for name in ("busy/0", "idle/0", "lost/0"):
                retire(session, name)
    assert {name: workers[name]["status"] for name in ("busy/0", "idle/0", "lost/0")} == {
        "busy/0": "busy",
        "idle/0": "idle",
        "lost/0": "lost",
    }
    assert workers["idle/0"]["images_per_second"] == 7.5
    assert workers["idle/0"]["versions"] == {"foretune": "0.1.0"}
    (job,) = workers["busy/0"]["holds"]
    assert (job["kind"], job["tenant"]) == ("evaluation", tenant)
    assert job["since"] >= workers["busy/0"]["started_at"][:10]
