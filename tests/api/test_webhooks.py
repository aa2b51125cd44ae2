"""/v1/webhooks: made, changed, rotated, tried and removed by their tenant alone."""

from typing import Any

import httpx
import pytest
from sqlalchemy import update

from app.domain.webhooks import read_secret
from app.storage.repositories.webhooks import MOST_WEBHOOKS
from app.storage.webhook_tables import WebhookDelivery
from tests.api.problem import assert_problem
from tests.api.worker import add_zoo, make_ready
from tests.contract.racing import race
from tests.fixtures.service import RunningService

URL = "https://example.com/foretune"


def make(user: httpx.Client, **body: Any) -> dict[str, Any]:
    made = user.post("/v1/webhooks", json={"url": URL, **body})
    assert made.status_code == 201, made.text
    answer: dict[str, Any] = made.json()
    return answer


def test_a_secret_is_shown_once(user: httpx.Client) -> None:
    made = make(user, name="lab", events=["selection.completed", "dataset.ready", "dataset.ready"])
    assert len(read_secret(made["secret"])) == 32
    assert (made["status"], made["events"]) == ("active", ["selection.completed", "dataset.ready"])
    read = user.get(made["links"]["self"])
    listed = user.get("/v1/webhooks")
    assert listed.json()["data"] == [read.json()]
    assert {**read.json(), "secret": made["secret"]} == made
    assert "salt" not in read.text
    assert "key" not in read.text


def test_without_events_it_hears_of_all(user: httpx.Client) -> None:
    assert len(make(user)["events"]) == 5


def test_it_is_changed_and_removed(user: httpx.Client) -> None:
    made = make(user)
    path = made["links"]["self"]
    changed = user.patch(path, json={"url": "https://example.org/", "events": ["dataset.ready"], "name": "b"}).json()
    assert (changed["url"], changed["events"], changed["name"]) == ("https://example.org/", ["dataset.ready"], "b")
    assert user.patch(path, json={}).json()["url"] == "https://example.org/"
    disabled = user.patch(path, json={"status": "disabled"}).json()
    assert (disabled["status"], disabled["reason"]) == ("disabled", "Disabled by its owner.")
    assert_problem(user.post(f"{path}/test"), 409, "webhook_disabled")
    enabled = user.patch(path, json={"status": "active"}).json()
    assert (enabled["status"], enabled["reason"]) == ("active", None)
    assert user.delete(path).status_code == 204
    assert_problem(user.get(path), 404, "webhook_not_found")
    assert_problem(user.delete(path), 404, "webhook_not_found")


def test_a_rotated_secret_is_another(user: httpx.Client) -> None:
    made = make(user)
    rotated = user.post(f"{made['links']['self']}/rotate")
    assert rotated.status_code == 200
    assert rotated.json()["secret"] != made["secret"]
    assert rotated.json()["previous_until"] is not None
    again = user.post(f"{made['links']['self']}/rotate", json={"grace_hours": 0}).json()
    assert again["previous_until"] is None
    assert again["secret"] not in (made["secret"], rotated.json()["secret"])


def test_what_is_to_be_sent_is_listed(service: RunningService, user: httpx.Client, tenant: str) -> None:
    made = make(user)
    path = made["links"]["self"]
    tried = user.post(f"{path}/test")
    assert tried.status_code == 202
    assert (tried.json()["type"], tried.json()["status"], tried.json()["attempts"]) == ("webhook.test", "pending", 0)
    add_zoo(service, "alpha")
    selection = {"dataset": make_ready(service, tenant), "models": ["alpha"]}
    selection_id = user.post("/v1/selections", json=selection).json()["id"]
    user.post(f"/v1/selections/{selection_id}/cancel")
    with service.database.write() as session:
        attempt = {"at": "2026-11-22T06:00:00+00:00", "seconds": 0.1, "status_code": 500, "answer": "no", "error": None}
        done = update(WebhookDelivery).where(WebhookDelivery.id == tried.json()["id"])
        session.execute(done.values(state="failed", attempts=11, last_attempt=attempt))
    newest, oldest = user.get(f"{path}/deliveries").json()["data"]
    assert (newest["type"], newest["subject"], newest["status"]) == ("selection.completed", selection_id, "pending")
    assert newest["next_attempt_at"] is not None
    assert (oldest["id"], oldest["status"], oldest["next_attempt_at"]) == (tried.json()["id"], "failed", None)
    assert (oldest["last_attempt"]["status_code"], oldest["last_attempt"]["answer"]) == (500, "no")
    page = user.get(f"{path}/deliveries", params={"limit": 1}).json()
    rest = user.get(f"{path}/deliveries", params={"limit": 1, "after": page["next_cursor"]}).json()
    assert [page["data"][0]["id"], rest["data"][0]["id"]] == [newest["id"], oldest["id"]]


def test_disabling_gives_up_what_waits(user: httpx.Client) -> None:
    path = make(user)["links"]["self"]
    user.post(f"{path}/test")
    user.patch(path, json={"status": "disabled"})
    assert [one["status"] for one in user.get(f"{path}/deliveries").json()["data"]] == ["failed"]


def test_there_is_a_most_however_many_come_at_once(user: httpx.Client) -> None:
    for number in range(MOST_WEBHOOKS - 1):
        make(user, name=f"hook {number}")
    answers = race(*[lambda: user.post("/v1/webhooks", json={"url": URL})] * 4)
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    assert_problem(user.post("/v1/webhooks", json={"url": URL}), 409, "too_many_webhooks")


def test_the_audit_log_has_it(admin: httpx.Client, user: httpx.Client, tenant: str) -> None:
    made = make(user)
    user.post(f"{made['links']['self']}/rotate")
    user.delete(made["links"]["self"])
    lines = admin.get("/v1/audit", params={"tenant": tenant}).json()["data"]
    mine = [line["action"] for line in lines if line["target"] == made["id"]]
    assert mine == ["webhook_deleted", "webhook_rotated", "webhook_created"]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "invalid_request", "url"),
        ({"url": ""}, "invalid_request", "url"),
        ({"url": URL, "events": []}, "invalid_request", "events"),
        ({"url": URL, "events": ["dataset.deleted"]}, "invalid_request", "events.0"),
        ({"url": URL, "secret": "mine"}, "unknown_field", "secret"),
        ({"url": "http://example.com/"}, "invalid_webhook_url", "url"),
        ({"url": "https://user:password@example.com/"}, "invalid_webhook_url", "url"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "address_not_public", "url"),
        ({"url": "https://2130706433/"}, "address_not_public", "url"),
    ],
)
def test_what_it_refuses(user: httpx.Client, body: dict[str, Any], code: str, param: str) -> None:
    assert_problem(user.post("/v1/webhooks", json=body), 422, code, param=param)
    if "url" in body and len(body) == 1 and body["url"]:
        path = make(user)["links"]["self"]
        assert_problem(user.patch(path, json=body), 422, code, param=param)
