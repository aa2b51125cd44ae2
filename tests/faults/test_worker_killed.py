"""Processes are killed with SIGKILL in the middle of their work, and everything is done once all the same."""

import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.processes import RunningService, is_alive, running_service
from tests.fixtures.story import finished, select, upload, wait_for, wait_for_zoo
from tests.fixtures.tiny_zoo import ARCHITECTURES, tiny_zoo


def wait_until_running(client: httpx.Client, selection: str) -> None:
    def is_extracting() -> bool:
        state = client.get(f"/v1/selections/{selection}").json()
        assert state["status"] != "done", "the selection was too quick for this test"
        return any(current["stage"] == "extracting" for current in state["progress"]["current"])

    wait_for(is_extracting)


def ended_jobs(log: Path) -> Counter[str]:
    """Count the log lines that say an evaluation was finished, by evaluation."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return Counter(line["job"] for line in lines if line["event"] == "job.done" and line["kind"] == "evaluation")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "FORETUNE_ZOO_MANIFEST": str(tiny_zoo(tmp_path, resize=224)),
        "FORETUNE_BATCH_SIZE": "4",
        "FORETUNE_THREADS": "1",
    }


def assert_complete(service: RunningService, results: dict[str, Any]) -> None:
    assert [row["status"] for row in results["data"]] == ["done"] * 3
    assert sorted(row["name"] for row in results["data"]) == sorted(ARCHITECTURES)
    assert [row["rank"] for row in results["data"]] == [1, 2, 3]
    assert results["final"] is True
    assert results["verdict"]
    counts = ended_jobs(service.log)
    assert len(counts) == 3
    assert set(counts.values()) == {1}


def test_a_killed_worker_is_replaced_and_every_evaluation_ends_once(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with running_service(tmp_path / "home", **environment) as service, service.client() as client:
        wait_for_zoo(client)
        selection = select(client, upload(client))
        for _ in range(2):
            wait_until_running(client, selection)
            (worker,) = service.worker_pids()
            os.kill(worker, signal.SIGKILL)
            wait_for(lambda dead=worker: service.worker_pids() not in ([dead], []))
        assert_complete(service, finished(client, selection))


def test_a_race_survives_a_killed_worker(tmp_path: Path, environment: dict[str, str]) -> None:
    environment |= {"FORETUNE_MAX_IMAGES": "200"}
    with running_service(tmp_path / "home", **environment) as service, service.client() as client:
        wait_for_zoo(client)
        selection = select(client, upload(client), race={"keep": 3})
        for look in range(2):
            wait_for(lambda seen=look: seen_by_all(client, selection) >= seen)
            wait_until_running(client, selection)
            (worker,) = service.worker_pids()
            os.kill(worker, signal.SIGKILL)
            wait_for(lambda dead=worker: service.worker_pids() not in ([dead], []))
        results = finished(client, selection)
        assert [(row["rank"], row["status"], row["images"]) for row in results["data"]] == [
            (1, "done", 200),
            (2, "done", 200),
            (3, "done", 200),
        ]
        assert set(ended_jobs(service.log).values()) == {2}, "each of the two looks ended once"


def test_time_that_a_worker_was_frozen_is_not_charged(tmp_path: Path, environment: dict[str, str]) -> None:
    environment |= {"FORETUNE_LEASE_SECONDS": "1"}
    with running_service(tmp_path / "home", **environment) as service, service.client() as client:
        wait_for_zoo(client)
        dataset = upload(client)
        started = time.monotonic()
        selection = select(client, dataset, models=[ARCHITECTURES[0]], budget={"worker_seconds": 600})
        wait_until_running(client, selection)
        (worker,) = service.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        time.sleep(6)
        os.kill(worker, signal.SIGCONT)
        finished(client, selection)
        spent = client.get(f"/v1/selections/{selection}").json()["worker_seconds"]
        assert 0 < spent < time.monotonic() - started - 4, "of six seconds asleep no more than a lease is charged"


def seen_by_all(client: httpx.Client, selection: str) -> int:
    """Return how many looks the ranking of a race rests on."""
    evidence = client.get(f"/v1/selections/{selection}/results").json()["evidence"]
    seen = evidence.get("images", {}).get("evaluated", 0)
    return sum(seen >= look for look in (128, 200))


def test_a_restart_of_everything_loses_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    home = tmp_path / "home"
    with running_service(home, **environment) as service, service.client() as client:
        wait_for_zoo(client)
        dataset = upload(client)
        selection = select(client, dataset)
        wait_until_running(client, selection)
        (worker,) = service.worker_pids()
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait(10)
        wait_for(lambda: not is_alive(worker), 40)  # without a service there is nobody to work for
    with running_service(home, **environment) as service, service.client() as client:
        assert_complete(service, finished(client, selection))
        again = finished(client, select(client, dataset))
        assert all(row["cached"] for row in again["data"])


def test_stopping_the_service_ends_its_processes_and_gives_work_back(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with running_service(tmp_path / "home", **environment) as service, service.client() as client:
        wait_for_zoo(client)
        selection = select(client, upload(client))
        wait_until_running(client, selection)
        (worker,) = service.worker_pids()
    assert not is_alive(worker)
    assert service.process.returncode == 0
    assert re.search(r'"event": "job.given_back"', service.log.read_text())
