"""Who may do what: held for every route under /v1, whichever there will be."""

import httpx
import pytest

from app.api.main import create_app
from tests.api.problem import assert_problem
from tests.api.worker import add_zoo, make_ready
from tests.fixtures.service import RunningService

ROUTES = sorted(
    (method.upper(), path)
    for path, methods in create_app().openapi()["paths"].items()
    for method in methods
    if path.startswith("/v1/")
)
ID_ROUTES = [route for route in ROUTES if "{" in route[1]]
NOBODYS_ID = "zz_01k9zzzzzzzzzzzzzzzzzzzzzz"


def needs_admin(method: str, path: str) -> bool:
    shared = ("/v1/models", "/v1/zoos", "/v1/weights")
    return path.startswith("/v1/keys") or (path.startswith(shared) and method != "GET")


def call(client: httpx.Client, method: str, path: str, given_id: str = NOBODYS_ID) -> httpx.Response:
    filled = "/".join(given_id if part.startswith("{") else part for part in path.split("/"))
    return client.request(method, filled, json={"status": "active"} if method == "PATCH" else None)


def kind_of(path: str) -> str:
    return path.split("/")[2].removesuffix("s")


def test_there_are_routes_to_walk() -> None:
    assert len(ROUTES) >= 17
    assert len(ID_ROUTES) >= 10


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nobody_comes_in_without_a_key(service: RunningService, method: str, path: str) -> None:
    anybody = service.client()
    for wrong in (None, "Bearer", "Bearer x", f"Basic {service.admin_key}", f"Bearer {service.admin_key}x"):
        if wrong is not None:
            anybody.headers["Authorization"] = wrong
        answer = call(anybody, method, path)
        assert_problem(answer, 401)
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_wants_its_scope(service: RunningService, tenant: str, method: str, path: str) -> None:
    useless = "write" if method == "GET" else "read"
    lacking = ["read", "write"] if needs_admin(method, path) else [useless]
    answer = call(service.client(service.key(*lacking, tenant=tenant)), method, path)
    assert_problem(answer, 403, "missing_scope")


@pytest.mark.parametrize(("method", "path"), [route for route in ID_ROUTES if route[0] != "PUT"])
def test_what_is_nobodys_is_not_found(admin: httpx.Client, method: str, path: str) -> None:
    assert_problem(call(admin, method, path), 404, f"{kind_of(path)}_not_found", param=kind_of(path))


@pytest.mark.parametrize(("method", "path"), ID_ROUTES)
def test_what_is_another_tenants_is_not_found(
    service: RunningService, admin: httpx.Client, user: httpx.Client, tenant: str, method: str, path: str
) -> None:
    dataset_id = make_ready(service, tenant)
    add_zoo(service, "alpha")
    selection_id = user.post("/v1/selections", json={"dataset": dataset_id, "models": ["alpha"]}).json()["id"]
    finetune_id = user.post("/v1/finetunes", json={"dataset": dataset_id, "models": ["alpha"]}).json()["id"]
    owned = {"dataset": dataset_id, "selection": selection_id, "finetune": finetune_id}
    kind = kind_of(path)
    assert kind in {*owned, "model", "zoo", "key"}, "say here whose it is"
    if kind not in owned:
        return  # models, zoos and keys are the service's own
    rival = service.client(service.key("read", "write", tenant="rival"))
    for stranger in (rival, admin):
        assert_problem(call(stranger, method, path, owned[kind]), 404, f"{kind}_not_found")
    assert user.get(f"/v1/{kind}s/{owned[kind]}").json()["status"] in ("ready", "queued")


def test_no_list_shows_another_tenants(service: RunningService, user: httpx.Client, tenant: str) -> None:
    dataset_id = make_ready(service, tenant)
    add_zoo(service, "alpha")
    user.post("/v1/selections", json={"dataset": dataset_id, "models": ["alpha"]})
    rival = service.client(service.key("read", tenant="rival-of-lists"))
    for path in ("/v1/datasets", "/v1/selections"):
        assert len(user.get(path).json()["data"]) == 1
        assert rival.get(path).json() == {"data": [], "has_more": False, "next_cursor": None}


def test_an_admin_may_read_and_write(service: RunningService, tenant: str) -> None:
    admin = service.client(service.key("admin", tenant=tenant))
    assert admin.post("/v1/datasets", content=b"an admin's").status_code == 202
    assert len(admin.get("/v1/datasets").json()["data"]) == 1
