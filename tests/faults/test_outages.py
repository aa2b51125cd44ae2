"""What a stack is made of fails, one part after the other, in the middle of its work: nothing is lost or done twice.

One stack for all of it: real servers, each behind a proxy, two API processes and two workers.
"""

import io
import itertools
import os
import signal
import socket
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select as rows
from sqlalchemy import update

from app.domain.states import RETRY_BUDGET
from app.storage.database import Database
from app.storage.tables import Dataset, Evaluation
from tests.api.problem import assert_problem
from tests.fixtures import sabotage
from tests.fixtures.invariants import assert_nothing_lost
from tests.fixtures.stack import Stack, running_stack
from tests.fixtures.story import SAMPLE, finished, select, shuffled_labels, upload, wait_for, wait_for_zoo
from tests.fixtures.tiny_zoo import ARCHITECTURES, tiny_zoo

pytestmark = pytest.mark.timeout(600)  # the first test waits for the whole stack

LEASE_SECONDS = 4.0
PROMPTLY_SECONDS = 10.0
SEEDS = itertools.count(100)
"""Each test has data sets of its own: of what was evaluated before, everything would come from the cache."""


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the files that slow workers down and kill them."""
    return tmp_path_factory.mktemp("orders")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, orders: Path) -> Iterator[Stack]:
    environment = {
        "FORETUNE_ZOO_MANIFEST": str(tiny_zoo(tmp_path_factory.mktemp("zoo"))),
        "FORETUNE_THREADS": "1",
        "FORETUNE_BATCH_SIZE": "4",
        "FORETUNE_MAX_IMAGES": "60",
        "FORETUNE_LEASE_SECONDS": str(LEASE_SECONDS),
        "FORETUNE_SWEEP_SECONDS": "1",
        "FORETUNE_RING_AGAIN_SECONDS": "3",
        "FORETUNE_OBJECTS_TIMEOUT_SECONDS": "2",
        "FORETUNE_TEST_SLOW": str(orders / "slow"),
        "FORETUNE_TEST_DEADLY": str(orders / "deadly"),
        "PYTHONPATH": str(Path(sabotage.__path__[0])),
    }
    with running_stack(tmp_path_factory.mktemp("stack"), environment=environment, proxied=True) as running:
        for client in (clients := running.clients()):
            wait_for_zoo(client)
        for client in clients:
            client.close()
        yield running


@pytest.fixture
def clients(stack: Stack) -> Iterator[list[httpx.Client]]:
    """Yield a client of each API process."""
    clients = stack.clients(timeout=30)
    yield clients
    for client in clients:
        client.close()


@pytest.fixture(autouse=True)
def _slowly(orders: Path) -> Iterator[None]:
    """Give every evaluation some seconds in which something can happen to it."""
    (orders / "slow").write_text("0.15")
    yield
    for order in orders.iterdir():
        order.unlink()


def another(client: httpx.Client) -> str:
    """Upload a data set that nobody has seen and return its id once it is ready."""
    return upload(client, shuffled_labels(next(SEEDS)))


def wait_until_working(client: httpx.Client, selection: str) -> None:
    wait_for(lambda: "extracting" in stages(client, selection))


def stages(client: httpx.Client, selection: str) -> list[str]:
    """Return at what stages the running evaluations of a selection are."""
    return [one["stage"] for one in client.get(f"/v1/selections/{selection}").json()["progress"]["current"]]


def assert_complete(results: dict[str, Any]) -> None:
    assert {row["name"]: row["status"] for row in results["data"]} == dict.fromkeys(ARCHITECTURES, "done")
    assert results["final"] is True


def failures(stack: Stack, selection: str) -> dict[str, int]:
    """Return how many failures were counted against the evaluations of a selection, by code."""
    database = Database(stack.settings.database_url)
    with database.read() as session:
        counted: dict[str, int] = {}
        for each in session.scalars(rows(Evaluation.failures).where(Evaluation.selection_id == selection)):
            for code, times in (each or {}).items():
                counted[code] = counted.get(code, 0) + times
    database.close()
    return counted


class TestPostgresql:
    @pytest.mark.parametrize("mode", ["immediate", "fast"])
    def test_a_restart(self, stack: Stack, clients: list[httpx.Client], mode: str) -> None:
        """A crash, and connections that are cut: requests are told to come again, and no job counts it as a failure."""
        dataset = another(clients[0])
        selection = select(clients[0], dataset)
        wait_until_working(clients[0], selection)
        stack.postgres.stop(mode)
        try:
            for client in clients:
                refused = client.get("/v1/datasets")
                assert_problem(refused, 503, "database_unavailable")
                assert refused.headers["Retry-After"] == "5"
                assert_problem(client.post("/v1/datasets", content=SAMPLE.read_bytes()), 503, "database_unavailable")
                assert client.get("/readyz").json()["status"] == "down"
            time.sleep(LEASE_SECONDS / 2)
        finally:
            stack.postgres.start()
        answers = [client.get("/v1/datasets").status_code for client in clients for _ in range(20)]
        assert answers == [200] * 40, "no request gets a connection of before"
        assert_complete(finished(clients[0], selection))
        assert failures(stack, selection) == {}
        assert_nothing_lost(stack, accepted=[dataset], cuts=2)


class TestObjectStore:
    def test_it_refuses_for_a_while(self, stack: Stack, clients: list[httpx.Client]) -> None:
        """Jobs wait, which their users see and are not charged for; uploads are told to come again."""
        client = clients[0]
        dataset = another(client)
        selection = select(client, dataset)
        wait_until_working(client, selection)
        stack.proxies["objects"].trouble = "refuse"
        try:
            wait_for(lambda: stages(client, selection) == ["waiting for the object store"] * 2, 30)
            spent = client.get(f"/v1/selections/{selection}").json()["worker_seconds"]
            assert_problem(client.post("/v1/datasets", content=SAMPLE.read_bytes()), 503, "storage_unavailable")
            time.sleep(2 * LEASE_SECONDS)
            state = client.get(f"/v1/selections/{selection}").json()
            assert [one["stage"] for one in state["progress"]["current"]] == ["waiting for the object store"] * 2
            assert state["worker_seconds"] - spent < LEASE_SECONDS
        finally:
            stack.proxies["objects"].trouble = "none"
        assert_complete(finished(client, selection))
        assert failures(stack, selection) == {}
        assert_nothing_lost(stack, accepted=[dataset], cuts=1)

    def test_it_is_silent_and_the_user_gives_up(self, stack: Stack, clients: list[httpx.Client]) -> None:
        client = clients[0]
        dataset = another(client)
        selection = select(client, dataset)
        wait_until_working(client, selection)
        workers = [worker.worker_pids() for worker in stack.workers]
        stack.proxies["objects"].trouble = "silent"
        try:
            wait_for(lambda: "waiting for the object store" in stages(client, selection), 30)
            client.post(f"/v1/selections/{selection}/cancel").raise_for_status()
            wait_for(lambda: not held(stack), PROMPTLY_SECONDS)
        finally:
            stack.proxies["objects"].trouble = "none"
        again = select(client, dataset)
        assert_complete(finished(client, again))
        assert failures(stack, again) == {}
        assert [worker.worker_pids() for worker in stack.workers] == workers, "none had to be ended for it"
        assert_nothing_lost(stack, accepted=[dataset], cuts=1)


class TestRedis:
    @pytest.mark.parametrize("trouble", ["killed", "silent", "wiped"])
    def test_work_is_taken_in_and_done(self, stack: Stack, clients: list[httpx.Client], trouble: str) -> None:
        client = clients[0]
        dataset = another(client)
        selection = select(client, dataset)
        wait_until_working(client, selection)
        if trouble == "killed":
            stack.redis.stop()
        elif trouble == "silent":
            stack.redis.freeze()
        else:
            stack.redis.wipe()
        try:
            began_at = time.monotonic()
            later = [select(one, dataset, scores=["logme"]) for one in clients]
            arrived = client.post("/v1/datasets", content=shuffled_labels(next(SEEDS)))
            assert arrived.status_code == 202
            assert time.monotonic() - began_at < PROMPTLY_SECONDS, "the doorbell is rung quickly or not at all"
            if trouble != "wiped":
                assert client.get("/readyz").json()["status"] == "degraded"
                assert_complete(finished(client, selection))
                assert_complete(finished(client, later[0]))  # the workers look for work themselves
        finally:
            if trouble == "killed":
                stack.redis.start()
            elif trouble == "silent":
                stack.redis.resume()
        for one in (selection, *later):
            assert_complete(finished(client, one))
        tally = assert_nothing_lost(stack, accepted=[dataset, arrived.json()["id"]])
        assert tally.unsaid == 0


class TestWorkers:
    def test_one_that_was_frozen_past_its_lease_changes_nothing(
        self, stack: Stack, clients: list[httpx.Client]
    ) -> None:
        client = clients[0]
        dataset = another(client)
        selection = select(client, dataset, models=ARCHITECTURES[:1])
        wait_until_working(client, selection)
        (slot,) = held(stack)
        worker = next(
            one for one in stack.workers if one.environment["FORETUNE_WORKER_SLOT"] == slot.rpartition("/")[2]
        )
        (pid,) = worker.worker_pids()
        os.kill(pid, signal.SIGSTOP)
        try:
            results = finished(client, selection)
            before = stack.objects.keys()
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: '"job.lost"' in worker.log.read_text() or pid not in worker.worker_pids(), 30)
        assert client.get(f"/v1/selections/{selection}/results").json() == results
        assert failures(stack, selection) == {"worker_lost": 1}
        stack.wait_until_ready()
        assert_nothing_lost(stack, accepted=[dataset])
        assert stack.objects.keys() == before

    def test_a_model_and_an_image_that_kill_every_worker(
        self, stack: Stack, clients: list[httpx.Client], orders: Path
    ) -> None:
        client = clients[0]
        dataset = another(client)
        (orders / "slow").unlink()
        (orders / "deadly").write_text("VisionTransformer")
        archive = io.BytesIO(shuffled_labels(next(SEEDS)))
        with zipfile.ZipFile(archive, "a") as sample:
            name = next(name for name in sample.namelist() if name.endswith(".png"))
            sample.writestr(name.rpartition("/")[0] + "/deadly.png", sample.read(name) + b"VisionTransformer")
        selection = select(client, dataset)
        poison = client.post("/v1/datasets", content=archive.getvalue()).json()["id"]
        nearly_spend_budgets(stack, selection, poison)
        results = finished(client, selection)
        told = {row["name"]: row for row in results["data"]}
        assert {name: row["status"] for name, row in told.items()} == {
            "test_resnet": "done", "test_efficientnet": "done", "test_vit": "failed"
        }  # fmt: skip
        assert told["test_vit"]["error"]["code"] == "worker_lost"
        assert "The worker that held this evaluation was lost" in told["test_vit"]["error"]["message"]
        rejected = wait_for(lambda: ended(client, poison), 180)
        assert (rejected["status"], rejected["error"]["code"]) == ("rejected", "worker_lost")
        (orders / "deadly").unlink()
        stack.wait_until_ready()
        assert_nothing_lost(stack, accepted=[dataset], cuts=4)


def test_an_api_process_that_is_killed_during_an_upload(stack: Stack, clients: list[httpx.Client]) -> None:
    client, archive = clients[1], io.BytesIO(shuffled_labels(next(SEEDS)))
    with zipfile.ZipFile(archive, "a") as sample:
        sample.writestr("notes.bin", os.urandom(12 << 20))  # more than goes to the store at once
    body, headers = archive.getvalue(), {"Idempotency-Key": "killed in the middle"}
    api = stack.apis[0]
    lines = [
        "POST /v1/datasets HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {stack.key}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    with socket.create_connection(("127.0.0.1", int(stack.urls[0].rpartition(":")[2]))) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body[: 11 << 20])
        wait_for(lambda: states(stack).count("receiving") == 1)
        time.sleep(0.5)
        os.kill(api.pid, signal.SIGKILL)
    assert api.process is not None
    api.process.wait(10)
    api.start()
    first = client.post("/v1/datasets", content=body, headers=headers)
    assert first.status_code == 202, first.text
    dataset = first.json()["id"]
    stack.wait_until_ready()
    assert clients[0].post("/v1/datasets", content=body, headers=headers).json()["id"] == dataset
    wait_for(lambda: ended(client, dataset))
    assert client.get("/v1/datasets", params={"limit": 1}).json()["data"][0]["id"] == dataset
    assert_nothing_lost(stack, accepted=[dataset], cuts=1)


def nearly_spend_budgets(stack: Stack, selection: str, dataset: str) -> None:
    """Count all but one of the workers that may be lost: each takes seconds to start again."""
    before = {"failures": {"worker_lost": RETRY_BUDGET["worker_lost"] - 1}}
    database = Database(stack.settings.database_url)
    with database.write() as session:
        session.execute(update(Evaluation).where(Evaluation.selection_id == selection).values(**before))
        session.execute(update(Dataset).where(Dataset.id == dataset).values(**before))
    database.close()


def held(stack: Stack) -> list[str]:
    """Return the holders of evaluations that are being worked on."""
    database = Database(stack.settings.database_url)
    with database.read() as session:
        holders = list(session.scalars(rows(Evaluation.lease_holder).where(Evaluation.lease_holder.is_not(None))))
    database.close()
    return [holder for holder in holders if holder is not None]


def states(stack: Stack) -> list[str]:
    """Return the states of all uploads."""
    database = Database(stack.settings.database_url)
    with database.read() as session:
        found = list(session.scalars(rows(Dataset.state)))
    database.close()
    return found


def ended(client: httpx.Client, dataset: str) -> dict[str, Any] | None:
    state: dict[str, Any] = client.get(f"/v1/datasets/{dataset}").json()
    return state if state["status"] in ("ready", "rejected") else None
