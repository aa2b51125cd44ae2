"""A model that takes every worker with it: it is put away, and the others are checked all the same."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx

from app.domain.states import RETRY_BUDGET
from tests.fixtures.processes import RunningService, running_service
from tests.fixtures.story import wait_for
from tests.fixtures.tiny_zoo import ARCHITECTURES, tiny_zoo
from workers.zoo.admission import CHECKS

DEADLY = ARCHITECTURES[1]
PATIENCE_SECONDS = 60


def model(client: httpx.Client, name: str) -> dict[str, Any]:
    [found] = [one for one in client.get("/v1/models").json()["data"] if one["name"] == name]
    answer: dict[str, Any] = client.get(f"/v1/models/{found['id']}").json()
    return answer


def kill_whoever_checks(service: RunningService, client: httpx.Client, after: int) -> dict[str, Any]:
    """Kill the worker in the middle of the checks of the deadly model; return what was known of them by then.

    Args:
        service: whose worker is killed.
        client: of the service.
        after: the model's revision when its last worker was killed. It is freed, claimed, and three checks end.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        seen = model(client, DEADLY)
        workers = service.worker_pids()
        if seen["status"] == "checking" and seen["revision"] >= after + 5 and workers:
            os.kill(workers[0], signal.SIGKILL)
            return seen
        time.sleep(0.01)
    raise AssertionError(f"it was never checked: {seen}")


def test_a_model_whose_checks_kill_every_worker_is_quarantined(tmp_path: Path) -> None:
    environment = {"FORETUNE_ZOO_MANIFEST": str(tiny_zoo(tmp_path, resize=224)), "FORETUNE_THREADS": "1"}
    with running_service(tmp_path / "home", **environment) as service, service.client() as client:
        killed_at = 0
        for _ in range(RETRY_BUDGET["worker_lost"] + 1):
            seen = kill_whoever_checks(service, client, killed_at)
            killed_at = seen["revision"]
            assert [check["name"] for check in seen["checks"][:3]] == ["weights", "safe_container", "preprocessing"]
        wait_for(lambda: model(client, DEADLY)["status"] not in ("pending", "checking"), PATIENCE_SECONDS)
        put_away = model(client, DEADLY)
        assert put_away["status"] == "quarantined"
        assert put_away["error"]["code"] == "worker_lost"
        following = CHECKS[len(put_away["checks"])]
        assert f" while it was at {following}: " in put_away["error"]["message"]
        assert put_away["error"]["hint"]
        assert put_away["checks"], "those that ended before are still told"
        others = [name for name in ARCHITECTURES if name != DEADLY]
        wait_for(lambda: all(model(client, name)["status"] == "active" for name in others), PATIENCE_SECONDS)
