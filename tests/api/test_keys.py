"""/v1/keys: made by admins, shown once, rotated, expired, revoked at once; and what other API processes know of it."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from app.api.recent_callers import RecentCallers
from app.storage.tables import ApiKey
from tests.api.problem import assert_problem
from tests.fixtures.service import RunningService, empty_zoo_settings, run_service


def make(admin: httpx.Client, tenant: str, **more: Any) -> dict[str, Any]:
    answer = admin.post("/v1/keys", json={"name": "laptop", "tenant": tenant} | more)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def age(service: RunningService, key_id: str, **columns: Any) -> None:
    """Overwrite columns of a key, as if time had passed."""
    with service.database.write() as session:
        session.execute(update(ApiKey).where(ApiKey.id == key_id).values(columns))
    time.sleep(RecentCallers.SECONDS)  # until then the service need not ask the database


def becomes_true(look: Callable[[], bool], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_the_first_start_writes_a_key_that_only_its_owner_can_read(service: RunningService) -> None:
    assert service.settings.admin_key_file.stat().st_mode & 0o777 == 0o600
    assert service.client(service.admin_key).get("/v1/keys").status_code == 200


def test_a_key_is_shown_once(service: RunningService, admin: httpx.Client, tenant: str) -> None:
    made = admin.post("/v1/keys", json={"name": "laptop", "tenant": tenant, "scopes": ["write", "read", "read"]})
    assert made.status_code == 201
    body = made.json()
    assert (body["name"], body["tenant"], body["scopes"]) == ("laptop", tenant, ["read", "write"])
    assert body["key"].startswith(body["prefix"])
    assert service.client(body["key"]).get("/v1/datasets").status_code == 200
    listed = admin.get("/v1/keys")
    assert body["id"] in [row["id"] for row in listed.json()["data"]]
    assert body["key"] not in listed.text
    assert "digest" not in listed.text


def test_a_revoked_key_is_refused_at_once(service: RunningService, admin: httpx.Client, tenant: str) -> None:
    made = admin.post("/v1/keys", json={"name": "lost laptop", "tenant": tenant}).json()
    holder = service.client(made["key"])
    assert holder.get("/v1/datasets").status_code == 200
    assert admin.delete(f"/v1/keys/{made['id']}").status_code == 204
    assert_problem(holder.get("/v1/datasets"), 401, "invalid_key")
    assert made["id"] not in [row["id"] for row in admin.get("/v1/keys", params={"limit": 200}).json()["data"]]
    assert_problem(admin.delete(f"/v1/keys/{made['id']}"), 404, "key_not_found")


def test_pages(admin: httpx.Client) -> None:
    ids = [admin.post("/v1/keys", json={"name": f"key {number}"}).json()["id"] for number in range(3)][::-1]
    first = admin.get("/v1/keys", params={"limit": 2}).json()
    rest = admin.get("/v1/keys", params={"limit": 2, "after": first["next_cursor"]}).json()
    assert [row["id"] for row in first["data"] + rest["data"]][:3] == ids


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "invalid_request", "name"),
        ({"name": ""}, "invalid_request", "name"),
        ({"name": "a\x00b"}, "invalid_request", "name"),
        ({"name": "x" * 201}, "invalid_request", "name"),
        ({"name": "x", "scopes": []}, "invalid_request", "scopes"),
        ({"name": "x", "scopes": ["root"]}, "invalid_request", "scopes.0"),
        ({"name": "x", "tenant": "Acme Inc."}, "invalid_request", "tenant"),
        ({"name": "x", "tenant": "acme\n"}, "invalid_request", "tenant"),
        ({"name": "x", "admin": True}, "unknown_field", "admin"),
        ({"name": "x", "user": ""}, "invalid_request", "user"),
        ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "invalid_request", "expires_at"),
        ({"name": "x", "expires_at": "2120-01-01T00:00:00"}, "invalid_request", "expires_at"),
        ({"name": "x", "expires_at": 4102444800}, "invalid_request", "expires_at"),
    ],
)
def test_what_it_refuses(admin: httpx.Client, body: dict[str, Any], code: str, param: str) -> None:
    assert_problem(admin.post("/v1/keys", json=body), 422, code, param=param)


class TestExpiry:
    def test_a_key_ends_by_itself_and_says_when_it_did(
        self, service: RunningService, admin: httpx.Client, tenant: str
    ) -> None:
        ends_at = datetime.now(UTC) + timedelta(seconds=1.5)
        made = make(admin, tenant, expires_at=ends_at.isoformat())
        assert datetime.fromisoformat(made["expires_at"]) == ends_at
        holder = service.client(made["key"])
        assert holder.get("/v1/keys/me").status_code == 200
        assert becomes_true(lambda: holder.get("/v1/keys/me").status_code == 401)
        assert datetime.now(UTC) - ends_at < timedelta(seconds=0.9), "also while it is among the recent callers"
        problem = assert_problem(holder.get("/v1/keys/me"), 401, "expired_key")
        assert f"{ends_at:%Y-%m-%dT%H:%M:%SZ}" in str(problem["detail"])


class TestRotation:
    def test_both_secrets_are_good_until_the_grace_ends(
        self, service: RunningService, admin: httpx.Client, tenant: str
    ) -> None:
        made = make(admin, tenant)
        old = service.client(made["key"])
        rotated = old.post("/v1/keys/me/rotate")
        assert rotated.status_code == 200
        assert (rotated.json()["id"], rotated.json()["prefix"]) == (made["id"], made["prefix"])
        grace = datetime.fromisoformat(rotated.json()["previous_until"]) - datetime.now(UTC)
        assert timedelta(hours=23.9) < grace < timedelta(hours=24.1)
        new = service.client(rotated.json()["key"])
        assert old.get("/v1/datasets").status_code == new.get("/v1/datasets").status_code == 200
        age(service, made["id"], previous_until=datetime.now(UTC))
        assert_problem(old.get("/v1/datasets"), 401, "invalid_key")
        assert new.get("/v1/datasets").status_code == 200

    def test_without_grace_the_secret_before_ends_at_once(
        self, service: RunningService, admin: httpx.Client, tenant: str
    ) -> None:
        made = make(admin, tenant)
        holder = service.client(made["key"])
        assert holder.get("/v1/datasets").status_code == 200
        assert admin.post(f"/v1/keys/{made['id']}/rotate", json={"grace_hours": 0}).status_code == 200
        assert_problem(holder.get("/v1/datasets"), 401, "invalid_key")

    def test_the_secret_before_cannot_rotate_the_key(
        self, service: RunningService, admin: httpx.Client, tenant: str
    ) -> None:
        made = make(admin, tenant)
        thief = service.client(made["key"])
        admin.post(f"/v1/keys/{made['id']}/rotate")
        assert_problem(thief.post("/v1/keys/me/rotate"), 403, "key_was_rotated")
        assert_problem(thief.post(f"/v1/keys/{made['id']}/rotate"), 403, "key_was_rotated")

    def test_a_second_rotation_ends_what_the_first_had_left(
        self, service: RunningService, admin: httpx.Client, tenant: str
    ) -> None:
        made = make(admin, tenant)
        first = service.client(made["key"])
        second = service.client(admin.post(f"/v1/keys/{made['id']}/rotate").json()["key"])
        third = service.client(admin.post(f"/v1/keys/{made['id']}/rotate").json()["key"])
        assert_problem(first.get("/v1/datasets"), 401, "invalid_key")
        assert second.get("/v1/datasets").status_code == third.get("/v1/datasets").status_code == 200

    def test_what_it_refuses(self, admin: httpx.Client, tenant: str) -> None:
        made = make(admin, tenant)
        for body, param in (({"grace_hours": -1}, "grace_hours"), ({"grace_hours": 1e6}, "grace_hours")):
            answer = admin.post(f"/v1/keys/{made['id']}/rotate", json=body)
            assert_problem(answer, 422, "invalid_request", param=param)


def test_a_key_tells_its_user_and_its_last_use(service: RunningService, admin: httpx.Client, tenant: str) -> None:
    made = make(admin, tenant, user="anna@lab.example")
    assert made["last_used_at"] is None
    holder = service.client(made["key"])
    holder.get("/v1/datasets")

    def used_at() -> str | None:
        moment: str | None = admin.get(f"/v1/keys/{made['id']}").json()["last_used_at"]
        return moment

    assert becomes_true(lambda: used_at() is not None)
    noted = used_at()
    time.sleep(1.2)
    holder.get("/v1/datasets")
    time.sleep(1.2)
    assert used_at() == noted, "once a minute is enough"
    assert holder.get("/v1/keys/me").json()["user"] == "anna@lab.example"


def test_keys_of_a_tenant_or_a_user(admin: httpx.Client, tenant: str) -> None:
    mine = make(admin, tenant, user="anna")["id"]
    make(admin, tenant, user="bert")
    make(admin, f"{tenant}-x", user="anna")
    assert len(admin.get("/v1/keys", params={"tenant": tenant}).json()["data"]) == 2
    found = admin.get("/v1/keys", params={"tenant": tenant, "user": "anna"}).json()["data"]
    assert [row["id"] for row in found] == [mine]


def test_the_last_admin_key_stays(tmp_path: Path) -> None:
    with run_service(empty_zoo_settings(tmp_path)) as service:
        admin = service.client(service.admin_key)
        own_id = admin.get("/v1/keys/me").json()["id"]
        make(admin, "default", scopes=["admin"], expires_at="2120-01-01T00:00:00Z")
        assert_problem(admin.delete(f"/v1/keys/{own_id}"), 409, "last_admin_key")
        make(admin, "default", scopes=["admin"])
        assert admin.delete(f"/v1/keys/{own_id}").status_code == 204
        assert_problem(admin.get("/v1/keys"), 401, "invalid_key")


def test_what_one_process_ends_the_others_refuse_within_a_second(tmp_path: Path) -> None:
    settings = empty_zoo_settings(tmp_path)
    with run_service(settings) as one, run_service(settings) as other:
        admin = one.client(one.admin_key)
        for end in ("revoke", "rotate", "suspend"):
            made = make(admin, f"tenant-{end}")
            holder = other.client(made["key"])
            assert holder.get("/v1/datasets").status_code == 200
            if end == "revoke":
                admin.delete(f"/v1/keys/{made['id']}")
            elif end == "rotate":
                admin.post(f"/v1/keys/{made['id']}/rotate", json={"grace_hours": 0})
            else:
                admin.patch("/v1/tenants/tenant-suspend", json={"suspended": True})
            time.sleep(RecentCallers.SECONDS)
            assert holder.get("/v1/datasets").status_code == (403 if end == "suspend" else 401)
