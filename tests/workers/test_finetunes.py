"""Fine-tunes of a whole service with a tiny zoo: trained, measured, downloaded, resumed, cancelled."""

import io
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.storage.objects import Objects
from tests.fixtures.processes import RunningService, running_service
from tests.fixtures.story import finished as ranked
from tests.fixtures.story import select, upload, wait_for, wait_for_zoo
from tests.fixtures.tiny_zoo import tiny_zoo

RECIPE = {"epochs": 3, "learning_rates": [0.02, 0.002], "batch_size": 32}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("service")
    environment = {
        "FORETUNE_ZOO_MANIFEST": str(tiny_zoo(folder)),
        "FORETUNE_THREADS": "1",
        "FORETUNE_CHECKPOINT_SECONDS": "0.2",
    }
    with running_service(folder / "home", **environment) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[httpx.Client]:
    with service.client() as client:
        wait_for_zoo(client)
        yield client


@pytest.fixture(scope="module")
def dataset(client: httpx.Client) -> str:
    return upload(client)


def stored(service: RunningService) -> list[str]:
    return Objects((service.home / "objects").as_uri()).keys()


def start(client: httpx.Client, dataset: str, models: list[str], **more: Any) -> str:
    body = {"dataset": dataset, "models": models, "recipe": RECIPE} | more
    answer = client.post("/v1/finetunes", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/v1/finetunes/{answer.json()['id']}"
    return str(answer.json()["id"])


def ended(client: httpx.Client, finetune: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        seen: dict[str, Any] = client.get(f"/v1/finetunes/{finetune}").json()
        return seen if seen["status"] in ("done", "failed", "cancelled") else None

    found: dict[str, Any] = wait_for(look, 180)
    return found


@pytest.fixture(scope="module")
def finished(client: httpx.Client, dataset: str) -> dict[str, Any]:
    return ended(client, start(client, dataset, ["test_resnet", "test_efficientnet"]))


def test_models_are_trained_and_measured_on_images_they_never_saw(finished: dict[str, Any]) -> None:
    assert finished["status"] == "done", finished["error"]
    assert finished["images"] == {"train": 260, "validation": 60, "test": 80}
    assert finished["recipe"]["weight_decay"] == 1e-4
    assert sorted(model["name"] for model in finished["models"]) == ["test_efficientnet", "test_resnet"]
    accuracies = [model["test_accuracy"] for model in finished["models"]]
    assert accuracies == sorted(accuracies, reverse=True)
    for model in finished["models"]:
        assert model["verdict"] in ("trained", "stuck")
        assert model["error"] is None
        assert model["learning_rate"] in RECIPE["learning_rates"]  # type: ignore[operator]
        assert [trial["learning_rate"] for trial in model["trials"]] == RECIPE["learning_rates"]
        best = max(trial["validation_accuracy"] for trial in model["trials"])
        chosen = next(trial for trial in model["trials"] if trial["learning_rate"] == model["learning_rate"])
        assert chosen["validation_accuracy"] == best
        low, high = model["interval"]
        assert low <= model["test_accuracy"] <= high
        assert model["full_steps"] == 3 * 9
        assert model["curve"][0]["step"] == 0
        assert model["curve"][0]["train_loss"] == pytest.approx(2.302585, abs=1e-5), "a head of zeros"
        assert model["curve"][-1]["step"] == 27
        has_learned = model["curve"][-1]["train_loss"] < model["curve"][0]["train_loss"]
        assert model["verdict"] == ("trained" if has_learned else "stuck")
        assert model["step_seconds"] > 0


def test_tuned_weights_come_with_a_card_and_a_script_that_runs(
    client: httpx.Client, finished: dict[str, Any], tmp_path: Path
) -> None:
    link = finished["models"][0]["weights"]
    answer = client.get(link)
    assert answer.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        archive.extractall(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert finished["models"][0]["name"] in card
    assert "apache-2.0" in card.lower()
    shown = subprocess.run([sys.executable, "finetune.py", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    best = max(finished["models"], key=lambda model: model["test_accuracy"])
    by_default = client.get(f"/v1/finetunes/{finished['id']}/weights")
    assert best["name"] in by_default.headers["Content-Disposition"]
    missing = client.get(f"/v1/finetunes/{finished['id']}/weights", params={"model": "test_vit"})
    assert (missing.status_code, missing.json()["code"]) == (404, "weights_not_found")


def test_nothing_but_the_weights_is_left(service: RunningService, finished: dict[str, Any]) -> None:
    kept = [key for key in stored(service) if key.startswith("finetunes/")]
    assert sorted(key.rpartition("/")[2] for key in kept) == sorted(f"{one['model']}.zip" for one in finished["models"])


def test_a_budget_gives_up_models_that_fall_behind(
    client: httpx.Client, dataset: str, finished: dict[str, Any]
) -> None:
    epochs = 40
    every_step = sum(model["step_seconds"] for model in finished["models"]) * epochs * 9 * 2
    models = ["test_resnet", "test_efficientnet"]
    recipe = RECIPE | {"epochs": epochs}
    found = ended(client, start(client, dataset, models, recipe=recipe, budget={"worker_seconds": 0.3 * every_step}))
    assert found["status"] == "done", found["error"]
    tested, given_up = found["models"]
    assert (tested["test_accuracy"] is not None, given_up["test_accuracy"]) == (True, None)
    assert given_up["verdict"] == "given_up"
    assert given_up["weights"] is None
    assert given_up["steps"] < tested["steps"] <= tested["full_steps"] == epochs * 9
    stood = [
        next(point["validation_accuracy"] for point in model["curve"] if point["step"] == given_up["steps"])
        for model in (tested, given_up)
    ]
    assert stood[0] >= stood[1]
    assert found["worker_seconds"] < 0.3 * every_step * 1.5

    refused = ended(client, start(client, dataset, models, budget={"worker_seconds": 1}))
    assert (refused["status"], refused["error"]["code"]) == ("failed", "budget_too_small")
    assert "Allow" in refused["error"]["hint"]


def test_a_ranking_is_proven_by_fine_tuning_its_first_models(client: httpx.Client, dataset: str) -> None:
    selection = select(client, dataset, scores=["knn"], verify={"k": 2, "recipe": RECIPE | {"epochs": 1}})
    results = ranked(client, selection)
    view = client.get(f"/v1/selections/{selection}").json()
    assert view["verify"]["k"] == 2
    assert [row["verified"] is not None for row in results["data"]] == [True, True, False]
    for row in results["data"][:2]:
        low, high = row["verified"]["interval"]
        assert low <= row["verified"]["test_accuracy"] <= high
    proof = client.get(f"/v1/finetunes/{results['data'][0]['verified']['finetune']}").json()
    assert (proof["selection"], proof["status"]) == (selection, "done")
    assert view["worker_seconds"] > proof["worker_seconds"] > sum(model["seconds"] for model in proof["models"])
    assert "Fine-tuning" in results["verdict"]
    assert results["verdict"].endswith(".")


def test_a_cancelled_selection_cancels_its_proof(client: httpx.Client, dataset: str) -> None:
    selection = select(client, dataset, scores=["knn"], verify={"k": 1, "recipe": {"epochs": 900}})

    def proof() -> dict[str, Any] | None:
        found = [one for one in client.get("/v1/finetunes").json()["data"] if one["selection"] == selection]
        return found[0] if found and found[0]["status"] == "running" else None

    running = wait_for(proof, 120)
    assert client.get(f"/v1/selections/{selection}").json()["status"] == "running"
    client.post(f"/v1/selections/{selection}/cancel").raise_for_status()
    assert client.get(f"/v1/finetunes/{running['id']}").json()["status"] == "cancelled"


def test_a_cancelled_fine_tune_stops_and_leaves_nothing(
    client: httpx.Client, service: RunningService, dataset: str
) -> None:
    finetune = start(client, dataset, ["test_vit"], recipe={"epochs": 500})
    wait_for(lambda: [key for key in stored(service) if key.endswith(".checkpoint") and finetune in key], 120)
    refused = client.delete(f"/v1/datasets/{dataset}")
    assert (refused.status_code, refused.json()["code"]) == (409, "dataset_in_use")
    assert client.post(f"/v1/finetunes/{finetune}/cancel").json()["status"] == "cancelled"
    assert client.post(f"/v1/finetunes/{finetune}/cancel").json()["status"] == "cancelled"

    def has_stopped() -> bool:
        before = client.get(f"/v1/finetunes/{finetune}").json()["worker_seconds"]
        time.sleep(2)
        return bool(client.get(f"/v1/finetunes/{finetune}").json()["worker_seconds"] == before > 0)

    wait_for(has_stopped)
    assert not [key for key in stored(service) if finetune in key]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"models": ["nobody"]}, 422, "unknown_model"),
        ({"models": []}, 422, "invalid_request"),
        ({"dataset": "ds_nothing"}, 404, "dataset_not_found"),
        ({"recipe": {"momentum": 1.0}}, 422, "invalid_request"),
        ({"recipe": {"learning_rates": [0.1, 0.1]}}, 422, "invalid_recipe"),
        ({"recipe": {"optimizer": "adam"}}, 422, "unknown_field"),
        ({"budget": {"worker_seconds": 0}}, 422, "invalid_request"),
    ],
)
def test_refused_requests(client: httpx.Client, dataset: str, change: dict[str, Any], status: int, code: str) -> None:
    body = {"dataset": dataset, "models": ["test_resnet"]} | change
    answer = client.post("/v1/finetunes", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["hint"]


def test_a_foreign_key_sees_nothing(client: httpx.Client, finished: dict[str, Any]) -> None:
    key = client.post("/v1/keys", json={"name": "other", "tenant": "other", "scopes": ["read", "write"]}).json()["key"]
    headers = {"Authorization": f"Bearer {key}"}
    for path in ("", "/weights"):
        answer = client.get(f"/v1/finetunes/{finished['id']}{path}", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "finetune_not_found")
    assert client.post(f"/v1/finetunes/{finished['id']}/cancel", headers=headers).status_code == 404
    assert client.get("/v1/finetunes", headers=headers).json()["data"] == []
