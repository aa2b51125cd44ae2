"""What one API process takes in, all of them know, and any worker does."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fixtures.stack import Stack
from tests.fixtures.story import SAMPLE, wait_for, wait_for_zoo
from tests.fixtures.tiny_zoo import ARCHITECTURES


@pytest.fixture
def clients(stack: Stack) -> Iterator[list[httpx.Client]]:
    clients = stack.clients()
    yield clients
    for client in clients:
        client.close()


def test_a_ranking_is_followed_on_one_api_process_after_the_other(stack: Stack, clients: list[httpx.Client]) -> None:
    turns = itertools.cycle(clients)
    wait_for_zoo(clients[0])
    before = stack.objects.keys()
    dataset = next(turns).post("/v1/datasets", content=SAMPLE.read_bytes()).json()["id"]
    wait_for(lambda: next(turns).get(f"/v1/datasets/{dataset}", params={"wait": 5}).json()["status"] == "ready")
    asked = next(turns).post("/v1/selections", json={"dataset": dataset})
    assert asked.status_code == 202, asked.text
    selection = asked.json()["id"]
    revisions = []

    def ended() -> bool:
        state = next(turns).get(f"/v1/selections/{selection}").json()
        assert state["status"] in ("queued", "running", "done"), state
        revisions.append(state["revision"])
        return bool(state["status"] == "done")

    wait_for(ended, 180)
    assert revisions == sorted(revisions), "neither process is behind the other"
    first, second = [client.get(f"/v1/selections/{selection}/results").json() for client in clients]
    assert first == second
    assert first["final"] is True
    assert [row["rank"] for row in first["data"]] == [1, 2, 3]
    assert {row["name"] for row in first["data"]} == set(ARCHITECTURES)
    kept = set(stack.objects.keys()) - set(before)
    assert {key.partition("/")[0] for key in kept} >= {"datasets", "extractions", "scores"}

    assert next(turns).delete(f"/v1/datasets/{dataset}").status_code == 204
    assert next(turns).get(f"/v1/datasets/{dataset}").status_code == 404
    assert stack.objects.keys() == before, "nothing of it is left in the bucket"


def test_what_is_sent_to_both_happens_once(clients: list[httpx.Client]) -> None:
    archive, headers = SAMPLE.read_bytes(), {"Idempotency-Key": "the same"}
    first, second = [client.post("/v1/datasets", content=archive, headers=headers).json() for client in clients]
    assert first["id"] == second["id"]
    wait_for(lambda: clients[0].delete(f"/v1/datasets/{first['id']}").status_code == 204)


def test_a_key_is_good_at_once_everywhere(stack: Stack, clients: list[httpx.Client]) -> None:
    made = clients[0].post("/v1/keys", json={"name": "another", "tenant": "team", "scopes": ["read"]}).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    for url in stack.urls:
        assert httpx.get(f"{url}/v1/datasets", headers=headers).status_code == 200


def test_both_workers_are_seen(stack: Stack, clients: list[httpx.Client]) -> None:
    for client in clients:
        assert client.get("/readyz").json()["status"] == "ready"
    assert all(len(worker.worker_pids()) == 1 for worker in stack.workers)


def test_no_secret_is_in_an_environment_or_a_log(stack: Stack) -> None:
    settings = stack.settings
    secrets = [settings.database_password, settings.broker_password, settings.secret, settings.admin_key]
    for one in (*stack.apis, *stack.workers):
        environment = Path(f"/proc/{one.pid}/environ").read_text()
        for secret in secrets:
            assert secret.get_secret_value() not in environment
            assert secret.get_secret_value() not in one.log.read_text()
    assert os.environ.get("FORETUNE_SECRETS_DIR") is None, "the tests' own settings are the defaults again"
