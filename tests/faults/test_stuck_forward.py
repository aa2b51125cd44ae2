"""A forward pass that takes minutes: whoever wants the GPU back has it within ten seconds, and nothing is lost."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures import sabotage
from tests.fixtures.processes import RunningService, running_service
from tests.fixtures.story import finished, select, upload, wait_for, wait_for_zoo
from tests.fixtures.tiny_zoo import ARCHITECTURES, tiny_zoo

MODELS = [ARCHITECTURES[0]]
WITHIN_SECONDS = 10


def stuck(client: httpx.Client, dataset: str, **more: Any) -> str:
    """Start a selection and return it once its network is in the pass that does not end."""
    selection = select(client, dataset, models=MODELS, **more)
    wait_for(lambda: [one["stage"] for one in state_of(client, selection)["progress"]["current"]] == ["loading"])
    time.sleep(1)  # the network is loaded, and the first image decoded
    return selection


def state_of(client: httpx.Client, selection: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/selections/{selection}").json()
    return found


def seconds_until_replaced(service: RunningService, worker: int) -> float:
    """Return how long the worker's process takes to end."""
    started = time.monotonic()
    wait_for(lambda: worker not in service.worker_pids(), 60)
    return time.monotonic() - started


def events(service: RunningService) -> list[str]:
    lines = service.log.read_text().splitlines()
    return [json.loads(line)["event"] for line in lines if line.startswith("{")]


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """Return a file that is not there; while it is, forward passes take as many seconds as it says."""
    return tmp_path / "slow"


@pytest.fixture
def environment(tmp_path: Path, slow: Path) -> dict[str, str]:
    return {
        "FORETUNE_ZOO_MANIFEST": str(tiny_zoo(tmp_path)),
        "FORETUNE_THREADS": "1",
        "FORETUNE_TEST_SLOW": str(slow),
        "PYTHONPATH": str(Path(sabotage.__path__[0])),
    }


def test_a_pass_that_does_not_end_is_ended(tmp_path: Path, slow: Path, environment: dict[str, str]) -> None:
    with running_service(tmp_path / "home", **environment) as service, service.client() as client:
        wait_for_zoo(client)
        dataset = upload(client)
        slow.write_text("300")

        cancelled = stuck(client, dataset)
        (worker,) = service.worker_pids()
        client.post(f"/v1/selections/{cancelled}/cancel").raise_for_status()
        assert seconds_until_replaced(service, worker) < WITHIN_SECONDS
        assert state_of(client, cancelled)["status"] == "cancelled"

        spent = stuck(client, dataset, budget={"worker_seconds": 2})
        (worker,) = service.worker_pids()
        assert seconds_until_replaced(service, worker) < WITHIN_SECONDS
        finished(client, spent, "failed")
        ended = state_of(client, spent)
        assert ended["error"]["code"] == "budget_too_small"
        assert ended["progress"]["models"]["over_budget"] == 1
        assert events(service).count("job.over_budget") == 1

        kept = stuck(client, dataset)
        (worker,) = service.worker_pids()
        stopping = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(30)
        assert time.monotonic() - stopping < WITHIN_SECONDS
        assert service.process.returncode == 0
        assert events(service).count("job.given_back") == 1
    slow.unlink()
    with running_service(tmp_path / "home", **environment) as service, service.client() as client:
        (row,) = finished(client, kept)["data"]
        assert row["status"] == "done"


def test_told_twice_it_hurries(tmp_path: Path, slow: Path, environment: dict[str, str]) -> None:
    with running_service(tmp_path / "home", **environment) as service, service.client() as client:
        wait_for_zoo(client)
        slow.write_text("300")
        stuck(client, upload(client))
        stopping = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(30)
        assert time.monotonic() - stopping < 5
        assert service.process.returncode == 0
        assert "job.given_back" in events(service)
        assert "supervisor.killed_worker" not in events(service)
