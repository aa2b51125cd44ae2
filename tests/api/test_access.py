"""Who may do what: held for every route of the OpenAPI document, whichever there will be.

A route of a resource that ``RULES`` does not name fails: whoever adds one has to say here whose it is.
"""

from dataclasses import dataclass
from typing import Literal

import httpx
import pytest
from fastapi.routing import APIRoute

from app.api.main import create_app
from tests.api.problem import assert_problem
from tests.api.worker import add_zoo, make_ready
from tests.fixtures.service import RunningService

Scope = Literal["read", "write", "admin"]
Method = str


@dataclass(frozen=True)
class Rule:
    """Which scope the routes of a resource take, and whether its objects belong to tenants or to the whole service."""

    to_read: Scope
    to_change: Scope
    owner: Literal["tenant", "service"]


RULES = {
    "datasets": Rule("read", "write", "tenant"),
    "selections": Rule("read", "write", "tenant"),
    "finetunes": Rule("read", "write", "tenant"),
    "webhooks": Rule("write", "write", "tenant"),
    "plan": Rule("read", "write", "service"),
    "usage": Rule("read", "write", "service"),
    "models": Rule("read", "admin", "service"),
    "zoos": Rule("read", "admin", "service"),
    "weights": Rule("read", "admin", "service"),
    "keys": Rule("admin", "admin", "service"),
    "tenants": Rule("admin", "admin", "service"),
    "audit": Rule("admin", "admin", "service"),
    "queue": Rule("admin", "admin", "service"),
    "workers": Rule("admin", "admin", "service"),
}
OF_ONES_OWN_KEY = {("GET", "/v1/keys/{key_id}"), ("POST", "/v1/keys/{key_id}/rotate")}
PUBLIC = {"/healthz", "/readyz", "/metrics"}

PATHS = create_app().openapi()["paths"]
ROUTES = sorted(
    (method.upper(), path) for path, methods in PATHS.items() for method in methods if path.startswith("/v1/")
)
ID_ROUTES = [route for route in ROUTES if "{" in route[1]]
OWNED_ROUTES = [route for route in ID_ROUTES if RULES[route[1].split("/")[2]].owner == "tenant"]
NOBODYS_ID = "zz_01k9zzzzzzzzzzzzzzzzzzzzzz"


def resource_of(path: str) -> str:
    return path.split("/")[2]


def kind_of(path: str) -> str:
    return resource_of(path).removesuffix("s")


def scope_of(method: Method, path: str) -> Scope:
    rule = RULES[resource_of(path)]
    return rule.to_read if method == "GET" else rule.to_change


def call(client: httpx.Client, method: Method, path: str, given_id: str = NOBODYS_ID) -> httpx.Response:
    filled = "/".join(given_id if part.startswith("{") else part for part in path.split("/"))
    body = {"status": "active"} if path == "/v1/models/{model_id}" else {}
    return client.request(method, filled, json=body if method == "PATCH" else None)


def test_there_are_routes_to_walk() -> None:
    assert len(ROUTES) >= 40
    assert len(OWNED_ROUTES) >= 10


def test_nothing_is_served_beside_the_document_but_the_document() -> None:
    hidden = {
        route.path for route in create_app().routes if isinstance(route, APIRoute) and not route.include_in_schema
    }
    assert hidden == set()
    assert {path for path in PATHS if not path.startswith("/v1/")} == PUBLIC


def test_every_resource_has_its_rule() -> None:
    assert {resource_of(path) for _, path in ROUTES} == RULES.keys()
    assert set(ROUTES) >= OF_ONES_OWN_KEY


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nobody_comes_in_without_a_key(service: RunningService, method: Method, path: str) -> None:
    anybody = service.client()
    for wrong in (None, "Bearer", "Bearer x", f"Basic {service.admin_key}", f"Bearer {service.admin_key}x"):
        if wrong is not None:
            anybody.headers["Authorization"] = wrong
        answer = call(anybody, method, path)
        assert_problem(answer, 401)
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route not in OF_ONES_OWN_KEY])
def test_every_route_wants_its_scope(service: RunningService, tenant: str, method: Method, path: str) -> None:
    scope = scope_of(method, path)
    lacking = {"read": ["write"], "write": ["read"], "admin": ["read", "write"]}[scope]
    answer = call(service.client(service.key(*lacking, tenant=tenant)), method, path)
    assert_problem(answer, 403, "missing_scope")
    answer = call(service.client(service.key(scope, tenant=tenant)), method, path)
    assert answer.status_code not in (401, 403), answer.text


@pytest.mark.parametrize(("method", "path"), sorted(OF_ONES_OWN_KEY))
@pytest.mark.parametrize("scope", ["read", "write", "admin"])
def test_every_key_may_see_and_rotate_itself(
    service: RunningService, admin: httpx.Client, tenant: str, method: Method, path: str, scope: str
) -> None:
    client = service.client(service.key(scope, tenant=tenant))
    own_id = client.get("/v1/keys/me").json()["id"]
    assert call(client, method, path, own_id).status_code == 200
    other_id = admin.get("/v1/keys/me").json()["id"]
    if scope != "admin":
        assert_problem(call(client, method, path, other_id), 404, "key_not_found", param="key")


@pytest.mark.parametrize(("method", "path"), [route for route in ID_ROUTES if route[0] != "PUT"])
def test_what_is_nobodys_is_not_found(admin: httpx.Client, method: Method, path: str) -> None:
    assert_problem(call(admin, method, path), 404, f"{kind_of(path)}_not_found", param=kind_of(path))


@pytest.mark.parametrize(("method", "path"), OWNED_ROUTES)
def test_what_is_another_tenants_is_not_found(
    service: RunningService, admin: httpx.Client, user: httpx.Client, tenant: str, method: Method, path: str
) -> None:
    dataset_id = make_ready(service, tenant)
    add_zoo(service, "alpha")
    kind = kind_of(path)
    owned = {
        "dataset": lambda: dataset_id,
        "selection": lambda: made(user, "/v1/selections", {"dataset": dataset_id, "models": ["alpha"]}),
        "finetune": lambda: made(user, "/v1/finetunes", {"dataset": dataset_id, "models": ["alpha"]}),
        "webhook": lambda: made(user, "/v1/webhooks", {"url": "https://example.com/hook"}),
    }[kind]()
    before = user.get(f"/v1/{kind}s/{owned}").json()
    rival = service.client(service.key("read", "write", tenant="rival"))
    for stranger in (rival, admin):
        assert_problem(call(stranger, method, path, owned), 404, f"{kind}_not_found")
    assert user.get(f"/v1/{kind}s/{owned}").json() == before


def made(client: httpx.Client, path: str, body: dict[str, object]) -> str:
    answer = client.post(path, json=body)
    assert answer.status_code in (201, 202), answer.text
    return str(answer.json()["id"])


@pytest.mark.parametrize("path", [f"/v1/{name}" for name, rule in RULES.items() if rule.owner == "tenant"])
def test_no_list_shows_another_tenants(service: RunningService, user: httpx.Client, tenant: str, path: str) -> None:
    dataset_id = make_ready(service, tenant)
    add_zoo(service, "alpha")
    asked = {"dataset": dataset_id, "models": ["alpha"]}
    if path != "/v1/datasets":
        made(user, path, {"url": "https://example.com/hook"} if path == "/v1/webhooks" else asked)
    rival = service.client(service.key("read", "write", tenant="rival-of-lists"))
    assert len(user.get(path).json()["data"]) == 1
    assert rival.get(path).json() == {"data": [], "has_more": False, "next_cursor": None}


def test_an_admin_may_read_and_write(service: RunningService, tenant: str) -> None:
    admin = service.client(service.key("admin", tenant=tenant))
    assert admin.post("/v1/datasets", content=b"an admin's").status_code == 202
    assert len(admin.get("/v1/datasets").json()["data"]) == 1
