"""Constraints and zoos, in lists of models and in selections."""

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.domain.states import ModelState
from app.storage.tables import Model, Selection
from tests.api.problem import assert_problem
from tests.api.worker import make_ready
from tests.fixtures.rows import add_model, spec
from tests.fixtures.service import RunningService


@pytest.fixture
def stem() -> str:
    return f"c{uuid.uuid4().hex[:8]}"


@pytest.fixture
def zoo(service: RunningService, admin: httpx.Client, stem: str) -> Iterator[str]:
    """Yield the name of a zoo of three models, whose facts differ."""
    facts: dict[str, dict[str, Any]] = {
        "small": {"parameters": 5, "gflops": 0.5, "family": "resnet", "capabilities": {"features": True}},
        "large": {"parameters": 50, "gflops": 5, "family": "vit", "capabilities": {"features": True, "logits": True}},
        "unknown": {},
    }
    for name, known in facts.items():
        with service.database.write() as session:
            model = session.get_one(Model, add_model(service.database, f"{stem}-{name}"))
            model.facts, model.tags = known, [stem, name]
    names = [f"{stem}-{name}" for name in facts]
    admin.put(f"/v1/zoos/{stem}", json={"models": names}).raise_for_status()
    yield stem
    admin.delete(f"/v1/zoos/{stem}")


def short(names: list[str], stem: str) -> set[str]:
    return {name.removeprefix(f"{stem}-") for name in names}


def names_of(service: RunningService, body: dict[str, Any], user: httpx.Client) -> list[str]:
    return [row["name"] for row in user.get(body["links"]["results"]).json()["data"]]


CASES: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"small", "large", "unknown"}),
    ({"max_parameters": 5}, {"small"}),
    ({"max_parameters": 50.5}, {"small", "large"}),
    ({"max_gflops": 0.5}, {"small"}),
    ({"families": ["ViT", "swin"]}, {"large"}),
    ({"capabilities": ["features"]}, {"small", "large"}),
    ({"capabilities": ["features", "logits"]}, {"large"}),
    ({"licenses": ["MIT", "x"], "max_parameters": 5}, {"small"}),
    ({"tags": ["small"]}, {"small"}),
]


@pytest.mark.parametrize(("constraints", "expected"), CASES)
def test_a_list_and_a_selection_agree(
    service: RunningService,
    user: httpx.Client,
    tenant: str,
    zoo: str,
    constraints: dict[str, Any],
    expected: set[str],
) -> None:
    listed = user.get("/v1/models", params=constraints | {"zoo": zoo}).json()["data"]
    assert short([model["name"] for model in listed], zoo) == expected
    asked = {"dataset": make_ready(service, tenant), "zoo": zoo, "constraints": constraints}
    answer = user.post("/v1/selections", json=asked)
    assert answer.status_code == 202
    body = answer.json()
    assert short(names_of(service, body, user), zoo) == expected
    assert (body["zoo"], body["constraints"], body["watch"], body["warnings"]) == (zoo, constraints or None, False, [])
    assert user.get(body["links"]["self"]).json() == body


def test_constraints_need_no_zoo(service: RunningService, user: httpx.Client, tenant: str, zoo: str) -> None:
    asked = {"dataset": make_ready(service, tenant), "constraints": {"tags": [zoo]}}
    body = user.post("/v1/selections", json=asked).json()
    assert body["progress"]["models"]["total"] == 3
    assert len(user.get("/v1/models", params={"tags": [zoo, "large"]}).json()["data"]) == 1


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ({"max_parameters": "many"}, "invalid_request", "max_parameters"),
        ({"max_parameters": "nan"}, "invalid_request", "max_parameters"),
        ({"max_gflops": "inf"}, "invalid_request", "max_gflops"),
        ({"max_gflops": -1}, "invalid_request", "max_gflops"),
        ({"capabilities": "flying"}, "invalid_request", "capabilities.0"),
        ({"licenses": ""}, "invalid_request", "licenses.0"),
        ({"tags": "No"}, "invalid_request", "tags.0"),
        ({"zoo": "nothing"}, "unknown_zoo", "zoo"),
        ({"license": "mit"}, "unknown_parameter", "license"),
    ],
)
def test_what_a_list_refuses(user: httpx.Client, query: dict[str, Any], code: str, param: str) -> None:
    assert_problem(user.get("/v1/models", params=query), 422, code, param=param)


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"constraints": {"max_parameters": "5"}}, 422, "invalid_request", "constraints.max_parameters"),
        ({"constraints": {"max_parameters": -1}}, 422, "invalid_request", "constraints.max_parameters"),
        ({"constraints": {"licenses": []}}, 422, "invalid_request", "constraints.licenses"),
        ({"constraints": {"licenses": ["a\x00"]}}, 422, "invalid_request", "constraints.licenses.0"),
        ({"constraints": {"tags": ["No"]}}, 422, "invalid_request", "constraints.tags.0"),
        ({"constraints": {"capabilities": ["flying"]}}, 422, "invalid_request", "constraints.capabilities.0"),
        ({"constraints": {"license": "mit"}}, 422, "unknown_field", "constraints.license"),
        ({"zoo": "nothing"}, 422, "unknown_zoo", "zoo"),
        ({"watch": True, "race": {}}, 422, "watch_with_race", "watch"),
        ({"watch": True, "budget": {"worker_seconds": 5}}, 422, "watch_with_race", "watch"),
        ({"watch": True, "models": ["alpha"]}, 422, "watch_with_models", "watch"),
        ({"watch": "yes"}, 422, "invalid_request", "watch"),
    ],
)
def test_what_a_selection_refuses(
    service: RunningService,
    user: httpx.Client,
    tenant: str,
    change: dict[str, Any],
    status: int,
    code: str,
    param: str,
) -> None:
    asked = {"dataset": make_ready(service, tenant)} | change
    assert_problem(user.post("/v1/selections", json=asked), status, code, param=param)


def test_a_named_model_has_to_satisfy_them(service: RunningService, user: httpx.Client, tenant: str, zoo: str) -> None:
    asked = {"dataset": make_ready(service, tenant), "models": [f"{zoo}-small", f"{zoo}-large"]}
    wanted = {"max_parameters": 5, "families": ["resnet"]}
    refused = user.post("/v1/selections", json=asked | {"constraints": wanted})
    problem = assert_problem(refused, 422, "model_breaks_constraint", param="models.1")
    assert f"'{zoo}-large' does not satisfy max_parameters and families" in str(problem["detail"])
    add_model(service.database, f"{zoo}-outside")
    asked = asked | {"models": [f"{zoo}-small", f"{zoo}-outside"], "zoo": zoo}
    problem = assert_problem(user.post("/v1/selections", json=asked), 422, "model_breaks_constraint", param="models.1")
    assert "zoo" in str(problem["detail"])
    fits = user.post("/v1/selections", json=asked | {"models": [f"{zoo}-small"], "constraints": wanted})
    assert fits.status_code == 202


class TestNoModelFits:
    def ask(
        self, service: RunningService, user: httpx.Client, tenant: str, zoo: str, **constraints: Any
    ) -> dict[str, object]:
        asked = {"dataset": make_ready(service, tenant), "zoo": zoo, "constraints": constraints}
        return assert_problem(user.post("/v1/selections", json=asked), 409, "no_model_satisfies_constraints")

    def test_the_one_to_loosen_is_told(
        self, service: RunningService, user: httpx.Client, tenant: str, zoo: str
    ) -> None:
        problem = self.ask(service, user, tenant, zoo, max_parameters=5, families=["vit"], licenses=["mit"])
        assert "Of 3 active models" in str(problem["detail"])
        assert "max_parameters leaves 1, licenses leaves 3, families leaves 1" in str(problem["detail"])
        assert problem["param"] == "constraints.max_parameters"
        assert problem["hint"] == "Without max_parameters, 1 would fit; max_parameters of 50 would do for one."

    def test_where_several_are_to_blame(
        self, service: RunningService, user: httpx.Client, tenant: str, zoo: str
    ) -> None:
        problem = self.ask(service, user, tenant, zoo, max_parameters=1, families=["swin"])
        assert problem["param"] == "constraints"
        assert "more than one" in str(problem["hint"])

    def test_a_zoo_without_active_models(
        self, service: RunningService, admin: httpx.Client, user: httpx.Client, tenant: str, stem: str
    ) -> None:
        add_model(service.database, f"{stem}-off", state=ModelState.DISABLED)
        admin.put(f"/v1/zoos/{stem}", json={"models": [f"{stem}-off"]}).raise_for_status()
        asked = {"dataset": make_ready(service, tenant), "zoo": stem, "constraints": {"max_parameters": 5}}
        problem = assert_problem(user.post("/v1/selections", json=asked), 409, "no_active_models", param="zoo")
        assert stem in str(problem["detail"])


def test_who_asks_for_a_deprecated_model_is_told(
    service: RunningService, user: httpx.Client, admin: httpx.Client, tenant: str, zoo: str
) -> None:
    path = user.get("/v1/models", params={"tags": [zoo, "large"]}).json()["data"][0]["links"]["self"]
    admin.patch(path, json={"status": "deprecated", "reason": "take small"}).raise_for_status()
    dataset = make_ready(service, tenant)
    everything = user.post("/v1/selections", json={"dataset": dataset, "zoo": zoo}).json()
    assert short(names_of(service, everything, user), zoo) == {"small", "unknown"}
    body = user.post("/v1/selections", json={"dataset": dataset, "models": [f"{zoo}-large", f"{zoo}-small"]}).json()
    [warning] = body["warnings"]
    assert (warning["code"], warning["model"]) == ("model_deprecated", path.rsplit("/", 1)[1])
    assert warning["detail"] == f"{zoo}-large version 1 is deprecated: take small"
    assert user.get(body["links"]["results"]).json()["warnings"] == [warning]
    admin.patch(path, json={"status": "active"}).raise_for_status()
    assert user.get(body["links"]["self"]).json()["warnings"] == [warning], "what was told stays told"


def test_selections_that_follow_each_other_are_linked(
    service: RunningService, user: httpx.Client, tenant: str, zoo: str
) -> None:
    asked = {"dataset": make_ready(service, tenant), "zoo": zoo, "watch": True}
    first, second = (user.post("/v1/selections", json=asked).json() for _ in range(2))
    assert first["watch"] is True
    assert not {"previous", "next"} & set(first["links"])
    follow(service, second["id"], first["id"])
    assert user.get(first["links"]["self"]).json()["links"]["next"] == second["links"]["self"]
    assert user.get(second["links"]["self"]).json()["links"]["previous"] == first["links"]["self"]
    listed = {one["id"]: one["links"] for one in user.get("/v1/selections").json()["data"]}
    assert listed[first["id"]]["next"] == second["links"]["self"]


def follow(service: RunningService, selection_id: str, previous_id: str) -> None:
    with service.database.write() as session:
        session.get_one(Selection, selection_id).previous_id = previous_id


def test_lists_rankings_and_filters_go_by_what_the_checks_have_found(
    service: RunningService, user: httpx.Client, tenant: str, stem: str
) -> None:
    model_id = add_model(service.database, stem)
    resolved = {"license": "apache-2.0", "pretraining": {"datasets": ["places"]}}
    facts = {
        "parameters": 7,
        "gflops": 0.25,
        "weights_bytes": 100,
        "peak_bytes": {"32": 10},
        "family": "vit",
        "capabilities": {"features": True, "logits": False, "gradients": True},
    }
    with service.database.write() as session:
        session.get_one(Model, model_id).facts = facts | {"resolved": resolved}
    assert user.get(f"/v1/models/{model_id}").json()["spec"]["license"] == "mit"
    wanted = {"licenses": ["Apache-2.0"], "pretrained_on": ["places"], "families": ["vit"]}
    bounds = {"max_parameters": 7, "max_gflops": 0.25, "max_memory_bytes": 110, "capabilities": ["gradients"]}
    [model] = user.get("/v1/models", params=wanted | bounds).json()["data"]
    assert (
        user.get("/v1/models", params={"licenses": "mit", "max_parameters": 7, "families": "vit"}).json()["data"] == []
    )
    shown = {"license": "apache-2.0", "pretraining": ["places"], "parameters": 7}
    more = {"family": "vit", "gflops": 0.25, "memory_bytes": 110, "capabilities": ["features", "gradients"]}
    assert model == model | shown | more
    asked = {"dataset": make_ready(service, tenant), "constraints": wanted | bounds}
    selection = user.post("/v1/selections", json=asked).json()
    [row] = user.get(selection["links"]["results"]).json()["data"]
    assert row == row | shown


def test_before_its_checks_a_model_is_what_was_registered(
    service: RunningService, admin: httpx.Client, stem: str
) -> None:
    body = admin.post("/v1/models", json=spec(stem).as_dict() | {"pretraining": {"datasets": ["places"]}}).json()
    assert (body["license"], body["pretraining"]) == ("mit", ["places"])
    unknown = ("family", "parameters", "gflops", "memory_bytes")
    assert [body[fact] for fact in unknown] == [None] * 4
    assert body["capabilities"] == []
    listed = admin.get("/v1/models", params={"pretrained_on": "places", "status": "pending"}).json()["data"]
    assert stem in [model["name"] for model in listed]
    admin.patch(body["links"]["self"], json={"status": "rejected"}).raise_for_status()
