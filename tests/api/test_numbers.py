"""Numbers in requests: of JSON's own type in bodies, finite everywhere, and named where they stand."""

from typing import Any

import httpx
import pytest

from tests.api.problem import assert_problem
from tests.api.worker import add_zoo, make_ready
from tests.fixtures.service import RunningService

JSON = {"Content-Type": "application/json"}
FINETUNE = '{"dataset": "ds_x", "models": ["a"], %s}'
SELECTION = '{"dataset": "ds_x", %s}'


def post(user: httpx.Client, path: str, content: str) -> httpx.Response:
    return user.post(path, content=content.encode(), headers=JSON)


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ('"recipe": {"learning_rates": [true]}', "recipe.learning_rates.0"),
        ('"recipe": {"learning_rates": [0.1, "0.01"]}', "recipe.learning_rates.1"),
        ('"recipe": {"momentum": false}', "recipe.momentum"),
        ('"recipe": {"epochs": "3"}', "recipe.epochs"),
        ('"recipe": {"epochs": true}', "recipe.epochs"),
        ('"recipe": {"epochs": 3.5}', "recipe.epochs"),
        ('"recipe": {"nesterov": 1}', "recipe.nesterov"),
        ('"budget": {"worker_seconds": "60"}', "budget.worker_seconds"),
    ],
)
def test_a_fine_tune_takes_numbers_for_numbers_only(user: httpx.Client, part: str, param: str) -> None:
    assert_problem(post(user, "/v1/finetunes", FINETUNE % part), 422, "invalid_request", param=param)


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ('"race": {"keep": true}', "race.keep"),
        ('"race": {"error_probability": "0.1"}', "race.error_probability"),
        ('"budget": {"worker_seconds": true}', "budget.worker_seconds"),
        ('"target": {"value": "0.1"}', "target.value"),
        ('"target": {}, "hardware": {"price_per_hour": true}', "hardware.price_per_hour"),
        ('"target": {"recipe": {"learning_rates": ["0.1"]}}', "target.recipe.learning_rates.0"),
        ('"verify": {"k": "3"}', "verify.k"),
        ('"verify": {"budget_seconds": true}', "verify.budget_seconds"),
        ('"verify": {"recipe": {"weight_decay": "0"}}', "verify.recipe.weight_decay"),
    ],
)
def test_a_selection_takes_numbers_for_numbers_only(user: httpx.Client, part: str, param: str) -> None:
    assert_problem(post(user, "/v1/selections", SELECTION % part), 422, "invalid_request", param=param)


@pytest.mark.parametrize("epochs", ["3", "3.0", "30e-1"])
def test_a_whole_number_however_it_is_written(
    service: RunningService, user: httpx.Client, tenant: str, epochs: str
) -> None:
    """JSON has one kind of number, and its schemas take 3.0 for an integer."""
    add_zoo(service, "alpha")
    dataset = make_ready(service, tenant)
    body = f'{{"dataset": "{dataset}", "models": ["alpha"], "recipe": {{"epochs": {epochs}}}}}'
    answer = post(user, "/v1/finetunes", body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["recipe"]["epochs"] == 3


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    ("path", "body", "part", "param"),
    [
        ("/v1/finetunes", FINETUNE, '"recipe": {"learning_rates": [%s]}', "recipe.learning_rates.0"),
        ("/v1/finetunes", FINETUNE, '"budget": {"worker_seconds": %s}', "budget.worker_seconds"),
        ("/v1/selections", SELECTION, '"race": {"error_probability": %s}', "race.error_probability"),
        ("/v1/selections", SELECTION, '"target": {"value": %s}', "target.value"),
        ("/v1/selections", SELECTION, '"verify": {"budget_seconds": %s}', "verify.budget_seconds"),
    ],
)
def test_bodies_have_finite_numbers(
    user: httpx.Client, number: str, path: str, body: str, part: str, param: str
) -> None:
    problem = assert_problem(post(user, path, body % (part % number)), 422, "invalid_request", param=param)
    assert problem["detail"] == f"{param}: Input should be a finite number."


def test_a_number_too_large_for_a_float(user: httpx.Client) -> None:
    answer = post(user, "/v1/selections", SELECTION % f'"target": {{"value": {10**400}}}')
    assert_problem(answer, 422, "invalid_request", param="target.value")


def test_whole_numbers_are_numbers_too(service: RunningService, user: httpx.Client, tenant: str) -> None:
    add_zoo(service, "alpha")
    dataset = make_ready(service, tenant)
    recipe: dict[str, Any] = {"learning_rates": [1, 0.5], "momentum": 0, "weight_decay": 0, "nesterov": False}
    verify = {"k": 1, "budget_seconds": 60, "recipe": recipe}
    target = {"kind": "loss", "value": 1, "recipe": recipe}
    asked = user.post(
        "/v1/selections", json={"dataset": dataset, "models": ["alpha"], "target": target, "verify": verify}
    )
    assert asked.status_code == 202, asked.text
    assert asked.json()["verify"]["recipe"]["learning_rates"] == [1.0, 0.5]
    assert asked.json()["target"]["target"]["value"] == 1.0
    budget = {"worker_seconds": 60}
    tuned = user.post(
        "/v1/finetunes", json={"dataset": dataset, "models": ["alpha"], "recipe": recipe, "budget": budget}
    )
    assert tuned.status_code == 202, tuned.text


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay", "target", "speed", "price_per_hour"])
def test_a_forecast_is_asked_with_finite_numbers(user: httpx.Client, name: str, number: str) -> None:
    answer = user.get("/v1/selections/sel_x/models/alpha/forecast", params={name: number})
    problem = assert_problem(answer, 422, "invalid_request", param=name)
    assert problem["detail"] == f"{name}: Input should be a finite number."


@pytest.mark.parametrize(("path", "name"), [("", "wait"), ("/results", "max_seconds")])
def test_other_queries_have_finite_numbers(user: httpx.Client, path: str, name: str) -> None:
    for number in ("nan", "inf"):
        problem = assert_problem(
            user.get(f"/v1/selections/sel_x{path}", params={name: number}), 422, "invalid_request", param=name
        )
        assert "finite" in str(problem["detail"])
