"""/v1/selections/{id}/models/{model}/explain: classes, confusions, and the comparison with another model."""

from typing import Any

import httpx
import pytest

from tests.api.problem import assert_problem
from tests.api.worker import SelectionWork, add_zoo, make_ready, set_dataset
from tests.fixtures.service import RunningService

CLASSES = [{"name": name, "count": 100, "example": ""} for name in ("bag", "boot", "coat")]


def stored(*right: int) -> dict[str, Any]:
    """Return what a worker stores about a model that got so many of 100 images of each class right."""
    return {
        "classes": [
            {"label": label, "held_out": 100, "right": count, "contribution": 0.1} for label, count in enumerate(right)
        ],
        "confusions": [{"label": 2, "predicted": 0, "images": 30}, {"label": 1, "predicted": 2, "images": 4}],
        "correlation": {
            "score": "lfc_centered",
            "value": 0.3,
            "pairs": [{"labels": [0, 0], "contribution": 0.2}, {"labels": [0, 2], "contribution": -0.1}],
        },
    }


@pytest.fixture
def work(service: RunningService, user: httpx.Client, tenant: str) -> SelectionWork:
    """A selection with three ranked models."""
    add_zoo(service, "alpha", "beta", "gamma")
    dataset = make_ready(service, tenant)
    set_dataset(service, dataset, report={"classes": CLASSES})
    asked = {"dataset": dataset, "models": ["alpha", "beta", "gamma"]}
    work = SelectionWork(service, user.post("/v1/selections", json=asked).json()["id"])
    work.finish("alpha", {"lfc": 0.5}, stored(98, 90, 60))
    work.finish("beta", {"lfc": 0.4}, stored(97, 60, 92))
    work.finish("gamma", {"lfc": 0.3}, stored(80, 61, 90))
    work.rank(3, "alpha", "beta", "gamma")
    return work


def explain(user: httpx.Client, work: SelectionWork, model: str, **more: str) -> httpx.Response:
    return user.get(f"/v1/selections/{work.selection_id}/models/{model}/explain", params=more)


def test_classes_confusions_and_the_next_model(user: httpx.Client, work: SelectionWork) -> None:
    body = explain(user, work, "alpha").json()
    assert (body["model"]["name"], body["model"]["rank"]) == ("alpha", 1)
    assert (body["against"]["name"], body["against"]["rank"]) == ("beta", 2)
    assert [(one["name"], one["accuracy"], one["against"], one["beyond_chance"]) for one in body["classes"]] == [
        ("bag", 0.98, 0.97, False),
        ("boot", 0.9, 0.6, True),
        ("coat", 0.6, 0.92, True),
    ]
    assert body["confusions"][0] == {"name": "coat", "predicted": "bag", "images": 30, "share": 0.3}
    assert body["correlation"]["pairs"][1] == {"names": ["bag", "coat"], "contribution": -0.1}
    assert body["summary"] == (
        "alpha does best on bag (98%) and worst on coat (60%). It most often takes coat for bag (30 images). "
        "Against beta it is better on boot and worse on coat."
    )


def test_another_model_to_compare_with(user: httpx.Client, work: SelectionWork) -> None:
    body = explain(user, work, "beta", against="alpha").json()
    assert (body["model"]["name"], body["against"]["name"]) == ("beta", "alpha")
    last = explain(user, work, "gamma").json()
    assert last["against"]["name"] == "beta"
    by_id = explain(user, work, last["model"]["model"]).json()
    assert by_id == last


def test_a_model_that_is_not_ranked(user: httpx.Client, work: SelectionWork) -> None:
    problem = assert_problem(explain(user, work, "delta"), 404, "model_not_found", param="model")
    assert "alpha, beta, gamma" in problem["hint"]
    assert_problem(explain(user, work, "alpha", against="delta"), 404, "model_not_found", param="against")


def test_after_the_data_set_is_gone(service: RunningService, user: httpx.Client, work: SelectionWork) -> None:
    service.objects.delete(f"scores/{work.selection_id}/alpha.json")
    assert_problem(explain(user, work, "alpha"), 409, "explanation_gone", param="selection")
