"""A worker is killed with SIGKILL while it trains.

Its successor goes on from the checkpoint, to the same end; if the fine-tune was cancelled meanwhile, nothing stays.
"""

import os
import signal
from pathlib import Path
from typing import Any

import httpx

from app.storage.objects import Objects
from tests.fixtures.processes import running_service
from tests.fixtures.story import upload, wait_for, wait_for_zoo
from tests.fixtures.tiny_zoo import tiny_zoo

RECIPE = {"epochs": 10, "learning_rates": [0.01, 0.001]}
STEPS = 2 * 10 * 9


def test_a_fine_tune_goes_on_where_a_killed_worker_was(tmp_path: Path) -> None:
    with running_service(tmp_path / "home", **environment(tmp_path)) as service, service.client() as client:
        wait_for_zoo(client)
        dataset = upload(client)
        finetune = start(client, dataset)
        wait_for(lambda: trained_steps(client, finetune) > STEPS * 0.6, 120)
        (worker,) = service.worker_pids()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: service.worker_pids() not in ([worker], []))
        first_seen = wait_for(lambda: trained_steps(client, finetune), 120)
        assert first_seen > STEPS * 0.3, "it did not begin anew"
        resumed = ended(client, finetune)

        undisturbed = ended(client, start(client, dataset))
        assert (resumed["status"], undisturbed["status"]) == ("done", "done")
        for name in ("learning_rate", "test_accuracy", "curve", "trials"):
            assert resumed["models"][0][name] == undisturbed["models"][0][name], "the same bits"
        kept = Objects((service.home / "objects").as_uri()).keys()
        assert not [key for key in kept if key.endswith(".checkpoint")]


def test_nobody_holds_it_when_it_is_cancelled(tmp_path: Path) -> None:
    with running_service(tmp_path / "home", **environment(tmp_path)) as service, service.client() as client:
        wait_for_zoo(client)
        finetune = start(client, upload(client))
        objects = Objects((service.home / "objects").as_uri())
        wait_for(lambda: objects.keys("finetunes"), 120)
        (worker,) = service.worker_pids()
        os.kill(worker, signal.SIGKILL)
        client.post(f"/v1/finetunes/{finetune}/cancel").raise_for_status()
        assert ended(client, finetune)["status"] == "cancelled"
        assert [key.endswith(".checkpoint") for key in objects.keys("finetunes")] == [True]
        wait_for(lambda: not objects.keys("finetunes"), 90)


def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "FORETUNE_ZOO_MANIFEST": str(tiny_zoo(tmp_path)),
        "FORETUNE_THREADS": "1",
        "FORETUNE_CHECKPOINT_SECONDS": "0.5",
    }


def start(client: httpx.Client, dataset: str) -> str:
    body = {"dataset": dataset, "models": ["test_efficientnet"], "recipe": RECIPE}
    answer = client.post("/v1/finetunes", json=body)
    answer.raise_for_status()
    return str(answer.json()["id"])


def trained_steps(client: httpx.Client, finetune: str) -> int:
    seen = client.get(f"/v1/finetunes/{finetune}").json()
    assert seen["status"] in ("queued", "running"), "the training was too quick for this test"
    progress = seen["progress"] or {"stage": "", "done": 0}
    return int(progress["done"]) if progress["stage"].endswith("training") else 0


def ended(client: httpx.Client, finetune: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        seen: dict[str, Any] = client.get(f"/v1/finetunes/{finetune}").json()
        return seen if seen["status"] in ("done", "failed", "cancelled") else None

    found: dict[str, Any] = wait_for(look, 180)
    return found
