"""The proof of a selection while it goes on: what polls, events and lists say of it, and that none of it is stale."""

from typing import Any

import httpx
import pytest

from app.storage import leases
from app.storage.leases import Lease
from app.storage.repositories.finetunes import charge
from tests.api.worker import SelectionWork, add_zoo, make_ready
from tests.contract.selection_steps import begin_proof, end_proven
from tests.fixtures.recorded import FinetuneWork, tuned
from tests.fixtures.service import RunningService

ZOO = ["alpha", "beta"]


def begin(work: SelectionWork) -> FinetuneWork:
    """Rank everything, and begin the proof."""
    return FinetuneWork(
        work.service.database, work.service.objects, begin_proof(work.service.database, work.selection_id)
    )


@pytest.fixture
def work(service: RunningService, user: httpx.Client, tenant: str) -> SelectionWork:
    """A selection whose models are all evaluated."""
    add_zoo(service, *ZOO)
    asked = {"dataset": make_ready(service, tenant), "models": ZOO, "scores": ["lfc"], "verify": {"k": 2}}
    work = SelectionWork(service, user.post("/v1/selections", json=asked).json()["id"])
    work.finish("alpha", {"lfc": 0.6})
    return work


class Watcher:
    """One who polls, and holds that nothing shown ever changes without a new revision."""

    def __init__(self, user: httpx.Client, work: SelectionWork) -> None:
        self.user, self.path = user, f"/v1/selections/{work.selection_id}"
        self.known: httpx.Response | None = None

    def look(self) -> Any:
        """Return the selection, by way of the ETag last seen."""
        headers = {"If-None-Match": self.known.headers["ETag"]} if self.known else {}
        answer = self.user.get(self.path, headers=headers)
        if answer.status_code == 304:
            assert self.known is not None
            answer = self.known
        assert answer.headers["ETag"] == f'"r{answer.json()["revision"]}"'
        if self.known is not None:
            assert answer.json()["revision"] >= self.known.json()["revision"]
        self.known = answer
        [listed] = self.user.get("/v1/selections").json()["data"]
        assert listed == answer.json(), "the list reads everything anew"
        assert self.user.get(f"{self.path}/results").headers["ETag"] == answer.headers["ETag"]
        return answer.json()

    def proof(self) -> Any:
        """Return what is shown of the proof."""
        return self.look()["proof"]


def note(work: FinetuneWork, lease: Lease, *ended: str) -> None:
    """Store that some models have ended."""
    with work.database.write() as session:
        leases.note(session, lease, result={"models": [tuned(f"mdl_{name}", name) for name in ended]})


def test_it_is_shown_from_its_beginning_to_its_end(user: httpx.Client, work: SelectionWork) -> None:
    watcher = Watcher(user, work)
    seen = watcher.look()
    assert (seen["proof"], "proof" in seen["links"], seen["progress"]["fraction"]) == (None, False, 0.25)
    work.finish("beta", {"lfc": 0.5})
    assert watcher.look()["progress"]["fraction"] == 0.5, "evaluations are one half"
    proof = begin(work)
    seen = watcher.look()
    assert seen["proof"] == {"finetune": proof.finetune_id, "status": "queued", "progress": None}
    assert seen["links"]["proof"] == f"/v1/finetunes/{proof.finetune_id}"
    assert user.get(seen["links"]["proof"]).json()["selection"] == work.selection_id
    lease = proof.claim()
    assert watcher.proof()["status"] == "running", "the worker has not told of any progress yet"
    proof.progress(lease, "alpha: training", 30, 90)
    assert watcher.proof()["progress"] == {"stage": "alpha: training", "done": 30, "total": 90}
    proof.progress(lease, "alpha: training", 60, 90)
    seen = watcher.look()
    assert (seen["proof"]["progress"]["done"], seen["progress"]["fraction"]) == (60, 0.5)
    note(proof, lease, "alpha")
    assert watcher.look()["progress"]["fraction"] == pytest.approx(0.6667)
    note(proof, lease, "alpha", "beta")
    assert watcher.look()["progress"]["fraction"] < 1, "it has not ended"
    proof.finish(lease, alpha=0.7, beta=0.8)
    seen = watcher.look()
    assert (seen["status"], seen["proof"]["status"], seen["progress"]["fraction"]) == ("running", "done", 1.0)
    end_proven(proof.database, work.selection_id)
    ended = watcher.look()
    assert (ended["status"], ended["proof"]["status"], ended["progress"]["fraction"]) == ("done", "done", 1.0)
    assert ended["revision"] > seen["revision"]
    with proof.database.write() as session:
        charge(session, proof.finetune_id, 1.0)  # by a worker that had lost it
    assert watcher.look() == ended, "an ended selection never changes"


def test_a_worker_that_puts_it_down_is_news(user: httpx.Client, work: SelectionWork) -> None:
    work.finish("beta", {"lfc": 0.5})
    proof, watcher = begin(work), Watcher(user, work)
    lease = proof.claim()
    proof.progress(lease, "alpha: training", 30, 90)
    assert watcher.proof()["status"] == "running"
    with proof.database.write() as session:
        leases.give_back(session, lease)
    assert watcher.proof() == {"finetune": proof.finetune_id, "status": "queued", "progress": None}


def test_cancelling_ends_both(user: httpx.Client, work: SelectionWork) -> None:
    work.finish("beta", {"lfc": 0.5})
    proof, watcher = begin(work), Watcher(user, work)
    lease = proof.claim()
    for done in range(5):
        proof.progress(lease, "alpha: training", done, 90)
    before = watcher.look()
    cancelled = user.post(f"{watcher.path}/cancel").json()
    assert (cancelled["status"], cancelled["proof"]["status"]) == ("cancelled", "cancelled")
    assert cancelled["progress"]["fraction"] == 1.0
    assert cancelled["revision"] > before["revision"]
    assert watcher.look() == cancelled == user.post(f"{watcher.path}/cancel").json()


def test_a_poll_is_held_until_the_proof_has_news(user: httpx.Client, work: SelectionWork) -> None:
    work.finish("beta", {"lfc": 0.5})
    proof = begin(work)
    path = f"/v1/selections/{work.selection_id}"
    known = {"If-None-Match": user.get(path).headers["ETag"]}
    assert user.get(path, params={"wait": 0.2}, headers=known).status_code == 304
    proof.claim()
    answer = user.get(path, params={"wait": 20}, headers=known)
    assert (answer.status_code, answer.json()["proof"]["status"]) == (200, "running")


def test_without_verify_there_is_none(service: RunningService, user: httpx.Client, tenant: str) -> None:
    add_zoo(service, *ZOO)
    asked = {"dataset": make_ready(service, tenant), "models": ["alpha"], "scores": ["lfc"]}
    work = SelectionWork(service, user.post("/v1/selections", json=asked).json()["id"])
    work.finish("alpha", {"lfc": 0.6})
    seen = Watcher(user, work).look()
    assert (seen["proof"], seen["progress"]["fraction"], "proof" in seen["links"]) == (None, 1.0, False)
