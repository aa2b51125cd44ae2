"""/v1/zoos: everybody reads them, admins make them."""

import uuid
from typing import Any

import httpx
import pytest

from tests.api.problem import assert_problem
from tests.fixtures.rows import add_model
from tests.fixtures.service import RunningService


@pytest.fixture
def name(service: RunningService) -> str:
    """Return a name; a model of that name is active."""
    name = f"z{uuid.uuid4().hex[:8]}"
    add_model(service.database, name)
    return name


def test_made_changed_read_and_removed(
    service: RunningService, admin: httpx.Client, user: httpx.Client, name: str
) -> None:
    other = f"{name}-other"
    add_model(service.database, other)
    path = f"/v1/zoos/{name}"
    made = admin.put(path, json={"models": [name], "description": "for phones"})
    assert (made.status_code, made.headers["Location"]) == (201, path)
    body = made.json()
    assert (body["object"], body["name"], body["models"]) == ("zoo", name, [name])
    again = admin.put(path, json={"models": [name], "description": "for phones"})
    assert (again.status_code, again.json()) == (200, body)
    changed = admin.put(path, json={"models": [other, name]}).json()
    assert (changed["models"], changed["description"]) == ([name, other], "")
    assert user.get(path).json() == changed
    assert changed in user.get("/v1/zoos").json()["data"]
    members = user.get(changed["links"]["models"]).json()["data"]
    assert {model["name"] for model in members} == {name, other}
    assert admin.delete(path).status_code == 204
    assert_problem(user.get(path), 404, "zoo_not_found", param="zoo")
    assert_problem(admin.delete(path), 404, "zoo_not_found")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"models": ["nothing", "never"]}, "unknown_model", "models"),
        ({}, "invalid_request", "models"),
        ({"models": "a"}, "invalid_request", "models"),
        ({"models": ["a\x00"]}, "invalid_request", "models.0"),
        ({"models": ["a"] * 5001}, "invalid_request", "models"),
        ({"models": [], "description": "x" * 1001}, "invalid_request", "description"),
        ({"models": [], "name": "x"}, "unknown_field", "name"),
    ],
)
def test_what_it_refuses(admin: httpx.Client, name: str, body: dict[str, Any], code: str, param: str) -> None:
    problem = assert_problem(admin.put(f"/v1/zoos/{name}", json=body), 422, code, param=param)
    assert code != "unknown_model" or "'never', 'nothing'" in str(problem["detail"])
    assert admin.get(f"/v1/zoos/{name}").status_code == 404


@pytest.mark.parametrize("odd", ["Upper", "a b", "-x", "x" * 51, "\u0451"])
def test_names_that_are_none(admin: httpx.Client, odd: str) -> None:
    problem = assert_problem(admin.put(f"/v1/zoos/{odd}", json={"models": []}), 422, "invalid_request", param="name")
    assert "letter or digit first" in str(problem["hint"])


def test_it_takes_an_admin(user: httpx.Client, name: str) -> None:
    assert_problem(user.put(f"/v1/zoos/{name}", json={"models": []}), 403, "missing_scope")
    assert_problem(user.delete(f"/v1/zoos/{name}"), 403, "missing_scope")
