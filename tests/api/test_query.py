"""A query parameter that a route does not know: refused on every route, with those that it knows."""

import re

import httpx
import pytest

from tests.api.problem import assert_problem
from tests.api.test_access import ROUTES
from tests.api.test_documentation import PATHS
from tests.fixtures.service import RunningService


def declared(method: str, path: str) -> list[str]:
    parameters = PATHS[path][method.lower()].get("parameters", [])
    return sorted(one["name"] for one in parameters if one["in"] == "query")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_refuses_it_and_says_what_it_knows(admin: httpx.Client, method: str, path: str) -> None:
    filled = re.sub(r"{\w+}", "zz_x", path)
    problem = assert_problem(admin.request(method, f"{filled}?limt=5"), 422, "unknown_parameter", param="limt")
    assert "'limt'" in str(problem["detail"])
    known = declared(method, path)
    told = f"The route takes {', '.join(known)}." if known else "The route takes no parameters."
    assert str(problem["hint"]).endswith(told)


def test_the_nearest_is_named(user: httpx.Client) -> None:
    problem = assert_problem(user.get("/v1/datasets?limt=5"), 422, "unknown_parameter", param="limt")
    assert problem["hint"] == "Did you mean limit? The route takes after, limit."
    path = "/v1/selections/sel_x/models/alpha/forecast"
    problem = assert_problem(user.get(f"{path}?lr=0.1&learning_rate=0.1"), 422, "unknown_parameter")
    assert problem["param"] == "learning_rate"
    assert "lr" in str(problem["hint"])
    far = assert_problem(user.get("/v1/datasets?zzz=5"), 422, "unknown_parameter", param="zzz")
    assert far["hint"] == "The route takes after, limit."


def test_a_typing_error_is_named_before_what_else_is_wrong(user: httpx.Client) -> None:
    assert_problem(user.get("/v1/datasets?limit=0&aftr=x"), 422, "unknown_parameter", param="aftr")
    assert_problem(user.get("/v1/datasets?limit=0"), 422, "invalid_request", param="limit")
    assert_problem(user.get("/v1/datasets?=5"), 422, "unknown_parameter", param="")
    assert_problem(user.get("/v1/datasets?Limit=5"), 422, "unknown_parameter", param="Limit")


def test_what_is_known_passes(user: httpx.Client) -> None:
    assert user.get("/v1/models?licenses=mit&licenses=bsd-3-clause&capabilities=logits").status_code == 200
    assert user.post("/v1/datasets?name=x", content=b"PK").status_code == 202
    assert user.get("/v1/datasets?").status_code == 200


def test_what_is_taken_once_is_given_once(user: httpx.Client) -> None:
    twice = user.get("/v1/models?status=active&status=pending")
    assert_problem(twice, 422, "repeated_parameter", param="status")
    assert_problem(user.get("/v1/models?zoo=a&zoo=a"), 422, "repeated_parameter", param="zoo")
    assert_problem(user.get("/v1/plan?images=5&images=6"), 422, "repeated_parameter", param="images")
    assert_problem(user.get("/v1/datasets?limit=5&limit=6&x=1"), 422, "unknown_parameter", param="x")


def test_an_upload_is_refused_before_it_is_taken(user: httpx.Client) -> None:
    assert_problem(user.post("/v1/datasets?nmae=x", content=b"PK"), 422, "unknown_parameter", param="nmae")
    assert user.get("/v1/datasets").json()["data"] == []


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"])
def test_monitoring_may_add_what_it_likes(service: RunningService, path: str) -> None:
    assert service.client().get(f"{path}?probe=7").status_code == 200
