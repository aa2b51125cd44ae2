"""How long things are kept: said when they are made, shown in every object, and told once they have gone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from app.client import Foretune
from app.domain.states import SelectionState
from app.storage.retention import delete_expired
from app.storage.tables import Dataset, Selection, now
from tests.api.problem import assert_problem
from tests.api.worker import add_zoo, make_ready
from tests.fixtures.service import RunningService, empty_zoo_settings, run_service


def days_left(expires_at: str) -> float:
    return (datetime.fromisoformat(expires_at) - datetime.now(UTC)) / timedelta(days=1)


def test_what_is_asked_for_is_shown(service: RunningService, user: httpx.Client, tenant: str) -> None:
    add_zoo(service, "alpha")
    asked = {"dataset": make_ready(service, tenant), "models": ["alpha"]}
    for path, body in (("/v1/selections", asked), ("/v1/finetunes", asked)):
        made = user.post(path, json=body | {"retention_days": 90}).json()
        assert days_left(made["expires_at"]) == pytest.approx(90, abs=0.01)
        assert user.get(made["links"]["self"]).json()["expires_at"] == made["expires_at"]
        assert user.post(path, json=body).json()["expires_at"] is None
    uploaded = user.post("/v1/datasets", params={"retention_days": 0.5}, content=b"an archive").json()
    assert days_left(uploaded["expires_at"]) == pytest.approx(0.5, abs=0.01)
    longer = user.post("/v1/datasets", params={"retention_days": 2}, content=b"an archive").json()
    assert longer["id"] == uploaded["id"]
    assert days_left(longer["expires_at"]) == pytest.approx(2, abs=0.01)
    assert longer["revision"] > uploaded["revision"]


@pytest.mark.parametrize("wrong", [0, -1, 1e9, "nan", "x"])
def test_a_time_that_is_none_is_refused(user: httpx.Client, wrong: Any) -> None:
    refused = user.post("/v1/datasets", params={"retention_days": wrong}, content=b"an archive")
    assert_problem(refused, 422, "invalid_request", param="retention_days")
    body = {"dataset": "ds_1", "models": ["alpha"], "retention_days": wrong}
    assert_problem(user.post("/v1/finetunes", json=body), 422, "invalid_request", param="retention_days")


def test_what_has_expired_is_gone_on_every_route(service: RunningService, user: httpx.Client, tenant: str) -> None:
    add_zoo(service, "alpha")
    dataset_id = make_ready(service, tenant)
    selection_id = user.post("/v1/selections", json={"dataset": dataset_id, "models": ["alpha"]}).json()["id"]
    with service.database.write() as session:
        session.execute(update(Dataset).where(Dataset.id == dataset_id).values(expires_at=now()))
        session.execute(update(Selection).where(Selection.id == selection_id).values(expires_at=now()))
    delete_expired(service.database, service.objects)
    assert user.get(f"/v1/datasets/{dataset_id}").status_code == 200, "a selection works on it"
    with service.database.write() as session:
        ended = update(Selection).where(Selection.id == selection_id)
        session.execute(ended.values(state=SelectionState.DONE, ranking={"models": {}, "verdict": "x"}))
    delete_expired(service.database, service.objects)
    for part in ("", "/results", "/events", "/models/alpha/explain", "/models/alpha/forecast"):
        assert_problem(user.get(f"/v1/selections/{selection_id}{part}"), 410, "selection_expired")
    assert_problem(user.post(f"/v1/selections/{selection_id}/cancel"), 410, "selection_expired")
    for part in ("", "/files"):
        assert_problem(user.get(f"/v1/datasets/{dataset_id}{part}"), 410, "dataset_expired", param="dataset")
    assert_problem(user.delete(f"/v1/datasets/{dataset_id}"), 410, "dataset_expired")
    again = user.post("/v1/selections", json={"dataset": dataset_id, "models": ["alpha"]})
    assert_problem(again, 410, "dataset_expired")
    assert user.get("/v1/selections").json()["data"] == []
    assert user.get("/v1/datasets").json()["data"] == []
    rival = service.client(service.key("read", tenant="rival"))
    assert_problem(rival.get(f"/v1/selections/{selection_id}"), 404, "selection_not_found")


def test_the_service_has_a_time_of_its_own(tmp_path: Path) -> None:
    with (
        run_service(empty_zoo_settings(tmp_path / "home", retention_days=7)) as running,
        Foretune(running.url, running.admin_key) as client,
    ):
        archive = tmp_path / "photos.zip"
        archive.write_bytes(b"an archive")
        expires_at = client.datasets.upload(archive).expires_at
        assert expires_at is not None
        assert days_left(expires_at.isoformat()) == pytest.approx(7, abs=0.01)
        archive.write_bytes(b"another")
        expires_at = client.datasets.upload(archive, retention_days=30).expires_at
        assert expires_at is not None
        assert days_left(expires_at.isoformat()) == pytest.approx(30, abs=0.01)
