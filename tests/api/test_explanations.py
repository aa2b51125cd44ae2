"""/v1/selections/{id}/models/{model}/explain: classes, confusions, and the comparison with another model."""

import json
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from app.storage.tables import Evaluation, Model, Selection
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


def went_on(work: SelectionWork, name: str, before: dict[str, Any], *, ranked_by_look: int) -> None:
    """Let a ranked model have seen 256 images first, and 400 at last."""
    early = f"scores/{work.selection_id}/{name}-256.json"
    with work.service.objects.create(early) as file:
        file.write(json.dumps(before).encode())
    with work.service.database.write() as session:
        mine = Evaluation.selection_id == work.selection_id, Model.name == name
        evaluation = session.scalars(select(Evaluation).join(Model).where(*mine)).one()
        result = dict(evaluation.result or {})
        evaluation.result = result | {"images": 400, "explanations": [early, *result["explanations"]]}
        selection = session.get_one(Selection, work.selection_id)
        ranking = json.loads(json.dumps(selection.ranking))
        ranking["models"][evaluation.model_id] |= {"look": ranked_by_look, "images": (256, 400)[ranked_by_look - 1]}
        selection.ranking = ranking


def test_models_of_a_race_are_compared_by_the_last_images_that_both_have_seen(
    user: httpx.Client, work: SelectionWork
) -> None:
    went_on(work, "alpha", stored(70, 50, 40), ranked_by_look=2)
    accuracies = [one["accuracy"] for one in explain(user, work, "alpha").json()["classes"]]
    assert accuracies == [0.7, 0.5, 0.4], "beta left after the first look"
    against = [one["against"] for one in explain(user, work, "beta", against="alpha").json()["classes"]]
    assert against == [0.7, 0.5, 0.4]
    went_on(work, "beta", stored(1, 1, 1), ranked_by_look=2)
    assert [one["accuracy"] for one in explain(user, work, "beta", against="alpha").json()["classes"]] != [0.01] * 3


def test_scores_of_more_images_than_a_place_rests_on_are_left_out(user: httpx.Client, work: SelectionWork) -> None:
    path = f"/v1/selections/{work.selection_id}/results"
    went_on(work, "alpha", stored(70, 50, 40), ranked_by_look=1)
    alpha, beta, _ = user.get(path).json()["data"]
    assert (alpha["images"], alpha["scores"]) == (256, {})
    assert set(beta["scores"]) == {"lfc"}
    cells = user.get(path, params={"format": "csv"}).text.splitlines()[1].split(",")
    assert "0.5" not in cells
