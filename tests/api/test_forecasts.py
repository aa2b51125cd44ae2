"""Forecasts: what results say of them, and what is answered from stored arrays. No worker runs."""

import csv
import io
from typing import Any

import httpx
import numpy as np
import pytest

from app.domain.errors import EvaluationFailed
from app.domain.finetuning import Recipe
from tests.api.problem import assert_problem
from tests.api.test_documentation import PATHS
from tests.api.worker import SelectionWork, add_zoo, make_ready
from tests.fixtures.recorded import measured_network, store_forecast
from tests.fixtures.service import RunningService

ZOO = ["alpha", "beta", "gamma", "delta"]
TARGET = {"value": 0.5, "recipe": {"epochs": 10, "batch_size": 8, "learning_rates": [0.05]}}
HARDWARE = {"name": "L4", "price_per_hour": 3.6}
FAILED = EvaluationFailed("gradients_unsupported", "A layer is unknown.", param="features.3", hint="Leave it out.")
METHODS = ("bilinear", "linear_probe", "frozen_kernel", "gradient_flow", "diffusion")
REFUSED: list[tuple[dict[str, Any], str, str | None]] = [
    ({"lr": 0}, "invalid_request", "lr"),
    ({"lr": "nan"}, "invalid_request", "lr"),
    ({"lr": "fast"}, "invalid_request", "lr"),
    ({"batch": 0}, "invalid_request", "batch"),
    ({"epochs": 1001}, "invalid_request", "epochs"),
    ({"momentum": 1}, "invalid_request", "momentum"),
    ({"weight_decay": -1}, "invalid_request", "weight_decay"),
    ({"schedule": "cosine"}, "invalid_request", "schedule"),
    ({"loss": "hinge"}, "invalid_request", "loss"),
    ({"kind": "steps"}, "invalid_request", "kind"),
    ({"target": "inf"}, "invalid_request", "target"),
    ({"price_per_hour": -1}, "invalid_request", "price_per_hour"),
    ({"speed": 0}, "invalid_request", "speed"),
    ({"method": "magic"}, "invalid_request", "method"),
    ({"kind": "accuracy"}, "invalid_target", "target"),
    ({"max_steps": 0}, "invalid_request", "max_steps"),
    ({"target": 2}, "invalid_target", "target"),
    ({"kind": "accuracy", "target": 1.5}, "invalid_target", "target"),
    ({"epochs": 1000, "batch": 1}, "training_too_long", "max_steps"),
]
PATH = "/v1/selections/{selection_id}/models/{model}/forecast"


@pytest.fixture
def dataset(service: RunningService, tenant: str) -> str:
    add_zoo(service, *ZOO)
    return make_ready(service, tenant)


def ask(user: httpx.Client, dataset: str, **more: Any) -> httpx.Response:
    return user.post("/v1/selections", json={"dataset": dataset, "models": ZOO, "scores": ["lfc"], **more})


@pytest.fixture
def work(service: RunningService, user: httpx.Client, dataset: str) -> SelectionWork:
    """Four ranked models: a slow step, a fast one, a network that cannot be measured, and one that nobody timed."""
    work = SelectionWork(service, ask(user, dataset, target=TARGET, hardware=HARDWARE).json()["id"])
    found = (
        measured_network(step_seconds=0.5),
        measured_network(step_seconds=0.1),
        FAILED,
        measured_network(step_seconds=None),
    )
    for name, network in zip(ZOO, found, strict=True):
        work.finish(name, {"lfc": 0.5})
        store_forecast(service.database, service.objects, work.selection_id, name, network)
    work.rank(4, *ZOO)
    return work


def forecast(user: httpx.Client, work: SelectionWork, model: str, **changes: Any) -> httpx.Response:
    return user.get(PATH.format(selection_id=work.selection_id, model=model), params=changes)


def results(user: httpx.Client, work: SelectionWork, **params: Any) -> Any:
    return user.get(f"/v1/selections/{work.selection_id}/results", params=params).json()["data"]


def spoil(work: SelectionWork, name: str, **arrays: Any) -> None:
    """Store other arrays in the place of a model's."""
    network = measured_network()
    for field, value in arrays.items():
        object.__setattr__(network, field, value)
    store_forecast(work.service.database, work.service.objects, work.selection_id, name, network)


class TestTarget:
    def test_it_is_stored_with_its_defaults(self, user: httpx.Client, dataset: str) -> None:
        target = ask(user, dataset, target={}).json()["target"]
        assert target["target"] == {"kind": "fraction_of_initial", "value": 0.1}
        assert target["recipe"] == Recipe().as_dict()
        assert ask(user, dataset).json()["target"] is None

    @pytest.mark.parametrize(
        ("target", "code", "param"),
        [
            ({"kind": "steps"}, "invalid_request", "target.kind"),
            ({"value": 0}, "invalid_request", "target.value"),
            ({"value": 1.5}, "invalid_target", "target.value"),
            ({"kind": "accuracy", "value": 1.5}, "invalid_target", "target.value"),
            ({"speed": 1}, "unknown_field", "target.speed"),
            ({"recipe": {"batch_size": 0}}, "invalid_request", "target.recipe.batch_size"),
            ({"recipe": {"learning_rates": [0.1, 0.1]}}, "invalid_recipe", "target.recipe.learning_rates"),
            ({"price_per_hour": 1}, "unknown_field", "target.price_per_hour"),
        ],
    )
    def test_what_it_refuses(
        self, user: httpx.Client, dataset: str, target: dict[str, Any], code: str, param: str
    ) -> None:
        assert_problem(ask(user, dataset, target=target), 422, code, param=param)

    @pytest.mark.parametrize(
        ("hardware", "param"),
        [
            ({"price_per_hour": -1}, "hardware.price_per_hour"),
            ({"speed": 0}, "hardware.speed"),
            ({"speed": "fast"}, "hardware.speed"),
            ({"name": ""}, "hardware.name"),
        ],
    )
    def test_impossible_hardware(self, user: httpx.Client, dataset: str, hardware: dict[str, Any], param: str) -> None:
        assert_problem(ask(user, dataset, target={}, hardware=hardware), 422, "invalid_request", param=param)

    def test_hardware_is_of_a_forecast(self, user: httpx.Client, dataset: str) -> None:
        assert_problem(ask(user, dataset, hardware=HARDWARE), 422, "hardware_without_target", param="hardware")


class TestResults:
    def test_each_model_has_its_time_or_says_why_not(self, user: httpx.Client, work: SelectionWork) -> None:
        alpha, beta, gamma, delta = results(user, work)
        found = alpha["forecast"]
        assert (found["verdict"], found["target"]["value"], found["device"]) == ("reached", 0.5, "cpu")
        assert found["seconds"] == pytest.approx(0.5 * found["steps"])
        assert found["interval"][0] <= found["steps"] <= found["interval"][1]
        assert found["cost"] == pytest.approx(found["seconds"] * 3.6 / 3600)
        assert (found["training"]["epochs"], found["training"]["images"], found["training"]["steps"]) == (10, 48, 60)
        assert beta["forecast"]["seconds"] == pytest.approx(found["seconds"] / 5)
        assert (gamma["forecast"], gamma["forecast_error"]) == (None, FAILED.as_dict())
        assert (delta["forecast"]["seconds"], delta["forecast"]["cost"]) == (None, None)
        assert delta["forecast"]["steps"] == found["steps"]

    def test_by_time_and_within_a_time(self, user: httpx.Client, work: SelectionWork) -> None:
        fast = results(user, work)[1]["forecast"]["seconds"]
        assert [row["name"] for row in results(user, work, sort="rank")] == ZOO
        assert [row["name"] for row in results(user, work, sort="seconds")] == ["beta", "alpha", "gamma", "delta"]
        assert [row["name"] for row in results(user, work, max_seconds=fast)] == ["beta"]
        assert [row["name"] for row in results(user, work, max_seconds=1e6)] == ["alpha", "beta"]
        assert results(user, work, max_seconds=fast / 2) == []
        path = f"/v1/selections/{work.selection_id}/results"
        assert_problem(user.get(path, params={"sort": "cost"}), 422, "invalid_request", param="sort")
        assert_problem(user.get(path, params={"max_seconds": 0}), 422, "invalid_request", param="max_seconds")

    def test_as_csv(self, user: httpx.Client, work: SelectionWork, dataset: str) -> None:
        path = f"/v1/selections/{work.selection_id}/results"
        told = user.get(path, params={"format": "csv", "sort": "seconds"}).text
        beta, alpha, gamma, delta = csv.DictReader(io.StringIO(told))
        found = results(user, work)[0]["forecast"]
        assert (alpha["name"], alpha["forecast"]) == ("alpha", "reached")
        assert float(alpha["forecast_steps"]) == found["steps"]
        assert float(alpha["forecast_seconds"]) == found["seconds"]
        low, high = float(alpha["forecast_seconds_low"]), float(alpha["forecast_seconds_high"])
        assert [low, high] == found["seconds_interval"]
        assert (beta["name"], beta["lfc"]) == ("beta", "0.5")
        assert (gamma["forecast"], gamma["forecast_seconds"]) == ("", "")
        assert (alpha["forecast_error"], gamma["forecast_error"]) == ("", "gradients_unsupported")
        assert (delta["forecast"], delta["forecast_seconds"], delta["forecast_seconds_low"]) == ("reached", "", "")
        plain = SelectionWork(work.service, ask(user, dataset).json()["id"])
        plain.finish("alpha", {"lfc": 0.5})
        header = user.get(f"/v1/selections/{plain.selection_id}/results", params={"format": "csv"}).text.split()[0]
        assert "forecast" not in header


class TestForecast:
    def test_without_changes_it_is_that_of_the_results(self, user: httpx.Client, work: SelectionWork) -> None:
        body = forecast(user, work, "alpha").json()
        stored = results(user, work)[0]["forecast"]
        assert {field: body[field] for field in stored} == stored
        assert (body["selection"], body["name"]) == (work.selection_id, "alpha")
        curve = body["curve"]
        assert (curve["steps"][0], curve["steps"][-1]) == (0, 60)
        assert curve["loss"][0] == pytest.approx(np.log(3), rel=1e-6), "a head of zeros"
        assert all(
            low <= loss <= high for low, loss, high in zip(curve["low"], curve["loss"], curve["high"], strict=True)
        )
        assert forecast(user, work, body["model"]).json() == body

    def test_what_if(self, user: httpx.Client, work: SelectionWork) -> None:
        before = forecast(user, work, "alpha").json()
        slow = forecast(user, work, "alpha", lr=0.02).json()
        assert (slow["training"]["learning_rate"], before["training"]["learning_rate"]) == (0.02, 0.05)
        assert slow["steps"] > before["steps"]
        lower = forecast(user, work, "alpha", target=0.3).json()
        assert (lower["steps"] > before["steps"], lower["target"]["value"]) == (True, 0.3)
        longer = forecast(user, work, "alpha", epochs=20, batch=4, momentum=0.5, weight_decay=0.01, schedule="constant")
        training = longer.json()["training"]
        assert (training["steps"], training["batch_size"], training["momentum"]) == (240, 4, 0.5)
        assert (training["weight_decay"], training["milestones"]) == (0.01, [])
        assert longer.json()["step_seconds"] == pytest.approx(0.25)
        squared = forecast(user, work, "alpha", loss="squared").json()
        assert squared["curve"]["loss"][0] == pytest.approx(0.5)
        short = forecast(user, work, "alpha", max_steps=7).json()
        assert (short["training"]["steps"], short["curve"]["steps"][-1]) == (7, 7)
        rescued = forecast(user, work, "alpha", epochs=1000, batch=1, max_steps=50)
        assert rescued.json()["training"]["steps"] == 50
        accuracy = forecast(user, work, "alpha", kind="accuracy", target=0.9).json()
        assert (accuracy["level"], "classified correctly" in accuracy["definition"]) == (0.9, True)
        assert forecast(user, work, "alpha", price_per_hour=36).json()["cost"] == pytest.approx(10 * before["cost"])
        fast = forecast(user, work, "alpha", speed=4).json()
        assert (fast["steps"], fast["seconds"]) == (before["steps"], pytest.approx(before["seconds"] / 4))
        assert fast["hardware"] == {"name": "L4", "speed": 4.0, "price_per_hour": 3.6}
        probe = forecast(user, work, "alpha", method="linear_probe").json()
        assert (probe["method"], probe["steps"] > before["steps"]) == ("linear_probe", True)
        assert forecast(user, work, "alpha").json() == before

    def test_every_method_and_loss(self, user: httpx.Client, work: SelectionWork) -> None:
        for method in METHODS:
            for loss in ("cross_entropy", "squared"):
                body = forecast(user, work, "alpha", method=method, loss=loss).json()
                assert (body["verdict"], body["method"], body["training"]["loss"]) == ("reached", method, loss)

    def test_a_learning_rate_that_is_too_large(self, user: httpx.Client, work: SelectionWork) -> None:
        limit = forecast(user, work, "alpha").json()["largest_learning_rate"]
        body = forecast(user, work, "alpha", lr=100 * limit).json()
        assert (body["verdict"], body["steps"], body["curve"]) == ("unstable", None, None)
        assert "learning_rate_over_limit" in body["warnings"]

    def test_a_target_out_of_reach(self, user: httpx.Client, work: SelectionWork) -> None:
        body = forecast(user, work, "alpha", target=0.001).json()
        assert (body["verdict"], body["steps"], body["interval"], body["seconds"]) == ("not_reached", None, None, None)
        assert body["best"] > body["level"]

    def test_what_it_refuses(self, user: httpx.Client, work: SelectionWork) -> None:
        for changes, code, param in REFUSED:
            assert_problem(forecast(user, work, "alpha", **changes), 422, code, param=param)
        assert "422" in PATHS[PATH]["get"]["responses"]


class TestWithoutForecast:
    def test_a_selection_that_was_not_asked(self, service: RunningService, user: httpx.Client, dataset: str) -> None:
        work = SelectionWork(service, ask(user, dataset).json()["id"])
        work.finish("alpha", {"lfc": 0.5})
        assert_problem(forecast(user, work, "alpha"), 409, "no_forecast", param="selection")

    def test_a_model_that_still_runs(self, service: RunningService, user: httpx.Client, dataset: str) -> None:
        work = SelectionWork(service, ask(user, dataset, target={}).json()["id"])
        work.claim("alpha")
        problem = assert_problem(forecast(user, work, "alpha"), 409, "forecast_not_ready", param="model")
        assert "running" in str(problem["detail"])
        assert (results(user, work)[0]["forecast"], results(user, work)[0]["forecast_error"]) == (None, None)

    def test_a_model_that_could_not_be_measured(self, user: httpx.Client, work: SelectionWork) -> None:
        problem = assert_problem(forecast(user, work, "gamma"), 409, FAILED.code, param=FAILED.param)
        assert (problem["detail"], problem["hint"]) == (FAILED.message, FAILED.hint)

    def test_arrays_of_which_no_forecast_can_be_made(self, user: httpx.Client, work: SelectionWork) -> None:
        spoil(work, "alpha", kernel=-np.eye(48, dtype=np.float32))
        assert_problem(forecast(user, work, "alpha"), 409, "forecast_indefinite")

    def test_after_the_data_set_is_gone(self, user: httpx.Client, work: SelectionWork) -> None:
        work.service.objects.delete("extractions/digest")
        answer = forecast(user, work, "alpha")
        assert_problem(answer, 409, "forecast_gone", param="selection")
        assert "409" in PATHS[PATH]["get"]["responses"]
        assert results(user, work)[0]["forecast"]["verdict"] == "reached", "results stay readable"

    def test_nothing_of_another_tenant_and_no_other_model(self, user: httpx.Client, work: SelectionWork) -> None:
        problem = assert_problem(forecast(user, work, "omega"), 404, "model_not_found", param="model")
        assert "alpha" in str(problem["hint"])
        rival = work.service.client(work.service.key("read", tenant="rival"))
        assert_problem(forecast(rival, work, "alpha"), 404, "selection_not_found")
        nowhere = SelectionWork(work.service, "sel_nothing")
        assert_problem(forecast(user, nowhere, "alpha"), 404, "selection_not_found")
