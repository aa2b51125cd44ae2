"""/v1/models: everybody reads the zoo, admins change it."""

import threading
import uuid
from typing import Any

import httpx
import pytest

from app.domain.states import ModelState
from app.storage import leases
from app.storage.tables import Model
from tests.api.problem import assert_problem
from tests.fixtures.rows import add_model, spec
from tests.fixtures.service import RunningService


@pytest.fixture
def name() -> str:
    return f"net-{uuid.uuid4().hex[:8]}"


def specification(name: str, **more: Any) -> dict[str, Any]:
    return spec(name).as_dict() | more


class TestRegistering:
    def test_a_version_is_checked_by_a_worker(self, admin: httpx.Client, name: str) -> None:
        answer = admin.post("/v1/models", json=specification(name))
        assert answer.status_code == 202
        body = answer.json()
        assert answer.headers["Location"] == f"/v1/models/{body['id']}" == body["links"]["self"]
        assert int(answer.headers["Retry-After"]) >= 1
        assert (body["name"], body["version"], body["status"], body["checks"]) == (name, 1, "pending", [])
        assert body["spec"]["architecture"] == "torchvision:resnet18"
        assert admin.get(answer.headers["Location"]).json() == body

    def test_the_same_again_is_the_same_version(self, admin: httpx.Client, name: str) -> None:
        first = admin.post("/v1/models", json=specification(name)).json()
        again = admin.post("/v1/models", json=specification(name))
        assert (again.status_code, again.json()) == (200, first)
        changed = admin.post("/v1/models", json=specification(name, notes="other notes"))
        assert (changed.status_code, changed.json()["version"]) == (202, 2)

    @pytest.mark.parametrize(
        ("change", "code", "param"),
        [
            ({"licence": "mit"}, "invalid_model_spec", "licence"),
            ({"architecture": "keras:x"}, "invalid_model_spec", "architecture"),
            ({"source": {"type": "pickle"}}, "invalid_model_spec", "source.type"),
            ({"source": {"type": "safetensors", "uri": "file:///x"}}, "invalid_model_spec", "source.sha256"),
            ({"name": ""}, "invalid_model_spec", "name"),
            ({"name": "x" * 201}, "invalid_model_spec", "name"),
            ({"name": "a\x00b"}, "invalid_request", "body"),
            ({"notes": [[["deep"]]]}, "invalid_model_spec", "notes"),
        ],
    )
    def test_what_it_refuses(
        self, admin: httpx.Client, name: str, change: dict[str, Any], code: str, param: str
    ) -> None:
        assert_problem(admin.post("/v1/models", json=specification(name) | change), 422, code, param=param)
        listed = admin.get("/v1/models", params={"status": "pending", "limit": 200}).json()["data"]
        assert name not in [model["name"] for model in listed]


class TestReading:
    def test_everybody_sees_the_same_zoo(self, service: RunningService, user: httpx.Client, name: str) -> None:
        model_id = add_model(service.database, name)
        body = user.get(f"/v1/models/{model_id}").json()
        assert (body["status"], body["facts"]["parameters"]) == ("active", 10)
        assert user.get("/v1/models", params={"limit": 1}).json()["data"] == [body]

    def test_only_admins_see_how_an_address_is_signed(
        self, service: RunningService, admin: httpx.Client, user: httpx.Client, name: str
    ) -> None:
        source = {"type": "safetensors", "uri": f"https://host/{name}?X-Amz-Signature=DEAD", "sha256": "0" * 64}
        wanted = specification(name, source=source)
        body = admin.post("/v1/models", json=wanted).json()
        assert body["spec"]["source"] == source
        path = f"/v1/models/{body['id']}"
        with service.database.write() as session:
            session.get_one(Model, body["id"]).facts = {"resolved": wanted}
        for _ in range(2):  # whoever asked last
            for client, uri in ((admin, source["uri"]), (user, f"https://host/{name}?...")):
                listed = next(one for one in client.get("/v1/models").json()["data"] if one["name"] == name)
                for shown in (client.get(path).json(), listed):
                    assert shown["spec"]["source"]["uri"] == shown["facts"]["resolved"]["source"]["uri"] == uri

    def test_one_state_only(self, service: RunningService, user: httpx.Client, name: str) -> None:
        add_model(service.database, name, state=ModelState.DISABLED)
        listed = user.get("/v1/models", params={"status": "disabled", "limit": 200}).json()["data"]
        assert name in [model["name"] for model in listed]
        assert {model["status"] for model in listed} == {"disabled"}
        assert_problem(user.get("/v1/models", params={"status": "asleep"}), 422, "invalid_request", param="status")

    def test_an_answer_is_held_while_the_model_is_checked(
        self, service: RunningService, admin: httpx.Client, name: str
    ) -> None:
        path = admin.post("/v1/models", json=specification(name)).headers["Location"]
        tag = admin.get(path).headers["ETag"]
        assert admin.get(path, headers={"If-None-Match": tag}, params={"wait": 0.2}).status_code == 304
        threading.Timer(0.3, check, [service, path.rsplit("/", 1)[1]]).start()
        checked = admin.get(path, headers={"If-None-Match": tag}, params={"wait": 20})
        assert (checked.status_code, checked.json()["status"]) == (200, "checking")

    def test_a_change_is_told_to_who_knew_the_state_before(
        self, service: RunningService, user: httpx.Client, admin: httpx.Client, name: str
    ) -> None:
        path = f"/v1/models/{add_model(service.database, name)}"
        known = {"If-None-Match": user.get(path).headers["ETag"]}
        assert user.get(path, headers=known, params={"wait": 30}).status_code == 304, "an active model stays as it is"
        admin.patch(path, json={"status": "disabled", "reason": "too slow"})
        assert user.get(path, headers=known).json()["reason"] == "too slow"


class TestSwitching:
    def test_off_and_on(self, service: RunningService, admin: httpx.Client, name: str) -> None:
        path = f"/v1/models/{add_model(service.database, name)}"
        off = admin.patch(path, json={"status": "disabled", "reason": "licence"})
        assert (off.status_code, off.json()["status"], off.json()["reason"]) == (200, "disabled", "licence")
        assert admin.patch(path, json={"status": "disabled"}).json() == off.json()
        assert admin.patch(path, json={"status": "active"}).json()["status"] == "active"

    def test_a_model_that_was_not_checked(self, service: RunningService, admin: httpx.Client, name: str) -> None:
        path = f"/v1/models/{add_model(service.database, name, state=ModelState.PENDING)}"
        assert_problem(admin.patch(path, json={"status": "active"}), 409, "model_state", param="status")

    @pytest.mark.parametrize(
        ("body", "code", "param"),
        [
            ({"status": "checking"}, "invalid_request", "status"),
            ({"status": "rejected"}, "model_state", "status"),
            ({"add_tags": ["No"]}, "invalid_tags", "add_tags.0"),
            ({"remove_tags": ["No"]}, "invalid_tags", "remove_tags.0"),
            ({"tags": [], "add_tags": ["a"]}, "invalid_tags", "tags"),
            ({"tags": ["a"], "remove_tags": []}, "invalid_tags", "tags"),
            ({"add_tags": ["a", "b"], "remove_tags": ["c", "b"]}, "invalid_tags", "remove_tags"),
            ({"add_tags": ["a"], "status": "pending"}, "model_state", "status"),
            ({}, "invalid_request", "status"),
            ({"reason": "none"}, "invalid_request", "status"),
            ({"status": "deprecated"}, "reason_required", "reason"),
            ({"tags": ["fine", "Not"]}, "invalid_tags", "tags.1"),
            ({"tags": [""]}, "invalid_tags", "tags.0"),
            ({"tags": ["-x"]}, "invalid_tags", "tags.0"),
            ({"tags": ["x\n"]}, "invalid_tags", "tags.0"),
            ({"tags": ["x" * 51]}, "invalid_tags", "tags.0"),
            ({"tags": [f"t{number}" for number in range(21)]}, "invalid_tags", "tags"),
            ({"tags": "fine"}, "invalid_request", "tags"),
            ({"tags": ["fine"], "status": "pending"}, "model_state", "status"),
            ({"status": "active", "version": 2}, "unknown_field", "version"),
            ({"status": "disabled", "reason": "x" * 1001}, "invalid_request", "reason"),
            ({"status": "disabled", "reason": "a\x00b"}, "invalid_request", "reason"),
        ],
    )
    def test_what_it_refuses(
        self, service: RunningService, admin: httpx.Client, name: str, body: dict[str, Any], code: str, param: str
    ) -> None:
        path = f"/v1/models/{add_model(service.database, name)}"
        assert_problem(admin.patch(path, json=body), 409 if code == "model_state" else 422, code, param=param)
        model = admin.get(path).json()
        assert (model["status"], model["tags"]) == ("active", [])


class TestCurating:
    def test_a_deprecated_model_says_why(self, service: RunningService, admin: httpx.Client, name: str) -> None:
        path = f"/v1/models/{add_model(service.database, name)}"
        old = admin.patch(path, json={"status": "deprecated", "reason": "take another"}).json()
        assert (old["status"], old["reason"]) == ("deprecated", "take another")
        assert admin.patch(path, json={"status": "disabled"}).json()["status"] == "disabled"

    def test_a_rejected_model_is_checked_again(self, service: RunningService, admin: httpx.Client, name: str) -> None:
        model_id = add_model(service.database, name, state=ModelState.REJECTED)
        again = admin.patch(f"/v1/models/{model_id}", json={"status": "pending", "reason": "the hub is back"})
        assert (again.status_code, again.json()["status"]) == (200, "pending")
        check(service, model_id)

    def test_tags_are_sorted_and_each_there_once(self, service: RunningService, admin: httpx.Client, name: str) -> None:
        path = f"/v1/models/{add_model(service.database, name)}"
        before = admin.get(path).json()["revision"]
        tagged = admin.patch(path, json={"tags": ["b", "a-1", "b"]}).json()
        assert (tagged["tags"], tagged["status"]) == (["a-1", "b"], "active")
        assert tagged["revision"] > before
        both = admin.patch(path, json={"tags": [], "status": "disabled", "reason": "gone"}).json()
        assert (both["tags"], both["status"]) == ([], "disabled")

    def test_some_tags_change_and_the_others_stay(
        self, service: RunningService, admin: httpx.Client, name: str
    ) -> None:
        path = f"/v1/models/{add_model(service.database, name)}"
        assert admin.patch(path, json={"add_tags": ["b", "a"]}).json()["tags"] == ["a", "b"]
        both = admin.patch(path, json={"add_tags": ["c"], "remove_tags": ["a", "x"], "reason": "phones"}).json()
        assert both["tags"] == ["b", "c"]
        assert admin.patch(path, json={"add_tags": [], "remove_tags": []}).json() == both
        [line, _, _] = admin.get(f"{path}/events").json()["data"]
        assert (line["action"], line["reason"]) == ("tags_changed", "phones")
        assert line["details"] == {"was": ["a", "b"], "now": ["b", "c"]}

    def test_a_model_that_is_not_checked_yet_is_withdrawn(
        self, service: RunningService, admin: httpx.Client, user: httpx.Client, name: str
    ) -> None:
        path = admin.post("/v1/models", json=specification(name)).headers["Location"]
        check(service, path.rsplit("/", 1)[1])
        known = user.get(path).headers["ETag"]
        threading.Timer(0.3, admin.patch, [path], {"json": {"status": "rejected", "reason": "misspelt"}}).start()
        withdrawn = user.get(path, headers={"If-None-Match": known}, params={"wait": 20}).json()
        assert (withdrawn["status"], withdrawn["reason"]) == ("rejected", "misspelt")
        assert withdrawn["error"]["code"] == "model_withdrawn"
        [line, _] = user.get(f"{path}/events").json()["data"]
        assert (line["action"], line["reason"]) == ("status_changed", "misspelt")
        assert line["details"] == {"was": "checking", "now": "rejected"}
        assert line["actor"].startswith("first admin (key_")
        assert_problem(admin.patch(path, json={"status": "disabled"}), 409, "model_state", param="status")

    def test_tags_may_come_with_the_registration(self, admin: httpx.Client, name: str) -> None:
        body = specification(name, tags=["b", "a"])
        first = admin.post("/v1/models", json=body)
        assert (first.status_code, first.json()["tags"]) == (202, ["a", "b"])
        assert (admin.post("/v1/models", json=specification(name)).status_code, first.json()["version"]) == (200, 1)
        assert_problem(admin.post("/v1/models", json=body | {"tags": ["A"]}), 422, "invalid_tags", param="tags.0")

    def test_the_log_says_who_did_what(
        self, service: RunningService, admin: httpx.Client, user: httpx.Client, name: str
    ) -> None:
        path = admin.post("/v1/models", json=specification(name)).headers["Location"]
        admin.patch(path, json={"tags": ["edge"], "reason": "runs on a phone"})
        log = user.get(f"{path}/events").json()["data"]
        assert [(line["action"], line["reason"]) for line in log] == [
            ("tags_changed", "runs on a phone"),
            ("registered", None),
        ]
        assert log[0]["details"] == {"was": [], "now": ["edge"]}
        for line in log:
            assert line["actor"].startswith("first admin (key_")
            assert line["object"] == "model_event"
        assert user.get(f"{path}/events", params={"limit": 1}).json()["has_more"] is True


def check(service: RunningService, model_id: str) -> None:
    with service.database.write() as session:
        assert leases.claim(session, leases.MODEL, model_id, holder="host/0", seconds=60)
