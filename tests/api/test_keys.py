"""/v1/keys: made by admins, shown once, revoked at once."""

from typing import Any

import httpx
import pytest

from tests.api.problem import assert_problem
from tests.fixtures.service import RunningService


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
    ],
)
def test_what_it_refuses(admin: httpx.Client, body: dict[str, Any], code: str, param: str) -> None:
    assert_problem(admin.post("/v1/keys", json=body), 422, code, param=param)
