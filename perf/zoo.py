"""What a user does over HTTP, for the measurements."""

import time
from pathlib import Path

import httpx


def wait_for_zoo(client: httpx.Client, seconds: float = 900) -> list[str]:
    """Wait until every registered model is checked, and return the names of the active ones."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        models = client.get("/v1/models?limit=200").json()["data"]
        if all(model["status"] not in ("pending", "checking") for model in models):
            return [model["name"] for model in models if model["status"] == "active"]
        time.sleep(0.5)
    raise TimeoutError("the zoo was not checked in time")


def upload(client: httpx.Client, archive: Path) -> str:
    """Upload an archive, wait until it is ready, and return its id."""
    answer = client.post("/v1/datasets", content=archive.read_bytes())
    answer.raise_for_status()
    dataset = answer.json()["id"]
    while True:
        state = client.get(f"/v1/datasets/{dataset}?wait=30").json()
        if state["status"] == "ready":
            return str(dataset)
        assert state["status"] != "rejected", state


def start_selection(client: httpx.Client, dataset: str) -> str:
    """Start a selection over every active model and return its id."""
    answer = client.post("/v1/selections", json={"dataset": dataset})
    answer.raise_for_status()
    return str(answer.json()["id"])


def finish(client: httpx.Client, selection: str) -> dict[str, object]:
    """Wait until a selection has ended, and return its results."""
    while True:
        state = client.get(f"/v1/selections/{selection}?wait=30").json()
        if state["status"] in ("done", "failed", "cancelled"):
            results: dict[str, object] = client.get(f"/v1/selections/{selection}/results").json()
            return results
