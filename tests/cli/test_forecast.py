"""Forecasts on the command line, made by a real service from the arrays of a small random network."""

from typing import Any

import pytest
from rich.console import Console

from app.cli.forecast import _page, duration
from app.client import Forecast, Foretune
from app.domain.errors import EvaluationFailed
from app.storage.objects import Objects
from app.storage.repositories.selections import settle
from app.storage.tables import Evaluation
from tests.cli.conftest import Served
from tests.fixtures.recorded import measured_network, store_forecast
from tests.fixtures.rows import add_model, add_ready_dataset

FAILED = EvaluationFailed("gradients_unsupported", "A layer is unknown.", hint="Leave it out.")


@pytest.fixture(scope="module")
def selection(served: Served) -> str:
    """Two ranked models, one of which could not be measured."""
    dataset_id = add_ready_dataset(served.database, tenant="default", content="u")
    model_ids = [add_model(served.database, name) for name in ("measured", "unmeasured")]
    recipe = {"epochs": 10, "batch_size": 8, "learning_rates": [0.05], "loss": "squared"}  # which is not calibrated
    target = {"value": 0.5, "recipe": recipe}
    with Foretune(served.url, served.key) as client:
        found = client.selections.create(dataset_id, models=model_ids, scores=["lfc"], target=target)
    objects = Objects((served.home / "objects").as_uri())
    store_forecast(served.database, objects, found.id, "measured", measured_network())
    store_forecast(served.database, objects, found.id, "unmeasured", FAILED)
    with served.database.write() as session:
        for evaluation in session.query(Evaluation).filter(Evaluation.selection_id == found.id):
            evaluation.state = "done"
        accuracy = {"mean": 0.8, "interval": [0.7, 0.9], "level": 0.9, "origin": "probe"}
        places = {
            model_id: {"rank": rank, "rank_interval": [1, 2], "tie_group": 1, "probe_accuracy": accuracy}
            for rank, model_id in enumerate(model_ids, 1)
        }
        ranking = {"verdict": "Both are tied.", "models": places, "evidence": {"level": 0.9}}
        assert settle(session, found.id, ranked=2, ranking=ranking, ended=True)
    return found.id


def test_a_forecast_and_what_if(served: Served, selection: str) -> None:
    done = served.run("forecast", selection, "--model", "measured")
    assert done.code == 0, done.err
    told = served.run("forecast", selection, "--model", "measured", "--json").json
    low, high = told["interval"]
    assert f"measured gets there in {told['steps']:.0f} steps ({low:.0f}-{high:.0f}, " in done.out
    assert "48 images, 10 epochs, 60 steps" in done.out
    rows = [line.split() for line in done.out.splitlines()]
    assert ["0", "0.500", "0.500-0.500"] in [row[:3] for row in rows]
    assert any(row[:1] == ["60"] for row in rows), "the curve is shown to its end"
    changes = ["--lr", "0.02", "--batch", "4", "--epochs", "20", "--momentum", "0.5", "--weight-decay", "0.01"]
    more = ["--schedule", "constant", "--loss", "squared", "--kind", "loss", "--target", "0.3", "--price", "3600"]
    changed = served.run(
        "forecast", selection, "--model", "measured", *changes, *more, "--method", "linear_probe", "--json"
    )
    training = changed.json["training"]
    assert (training["learning_rate"], training["batch_size"], training["steps"]) == (0.02, 4, 240)
    assert (training["momentum"], training["weight_decay"], training["milestones"]) == (0.5, 0.01, [])
    assert (training["loss"], changed.json["target"]) == ("squared", {"kind": "loss", "value": 0.3})
    assert (changed.json["hardware"]["price_per_hour"], changed.json["method"]) == (3600, "linear_probe")


def test_a_learning_rate_that_is_too_large_and_a_target_out_of_reach(served: Served, selection: str) -> None:
    unstable = served.run("forecast", selection, "--model", "measured", "--lr", "900")
    assert "is not stable at a learning rate of 900" in unstable.out
    assert "learning_rate_over_limit" in unstable.out
    short = served.run("forecast", selection, "--model", "measured", "--max-steps", "7", "--json")
    assert short.json["training"]["steps"] == 7
    far = served.run("forecast", selection, "--model", "measured", "--target", "0.001")
    assert (far.code, "does not get there in 60 steps; its best is" in far.out) == (0, True)


def test_no_forecast_is_an_error(served: Served, selection: str) -> None:
    refused = served.run("forecast", selection, "--model", "unmeasured")
    assert (refused.code, refused.out) == (1, "")
    assert "A layer is unknown. (gradients_unsupported)" in refused.err
    assert "(invalid_number)" in served.run("forecast", selection, "--model", "measured", "--lr", "nan").err


def test_the_ranking_shows_times_and_what_has_none(served: Served, selection: str) -> None:
    done = served.run("results", selection)
    assert done.code == 0, done.err
    seconds = served.run("results", selection, "--json").json["data"][0]["forecast"]["seconds"]
    (row,) = (line for line in done.out.splitlines() if line.startswith("1 "))
    assert duration(seconds) in row
    assert "unmeasured has no forecast: A layer is unknown. (gradients_unsupported)" in done.out
    assert "Forecasts warn of: " in done.out
    header = served.run("results", selection, "--csv").out.splitlines()[0]
    assert "forecast_seconds_low" in header


def forecast(**more: Any) -> Forecast:
    values = {
        "selection": "sel_1",
        "model": "mdl_1",
        "name": "[red]wide\x1b",
        "verdict": "reached",
        "steps": 40.0,
        "interval": [30.0, 50.0],
        "confidence": 0.8,
        "seconds": 7200.0,
        "seconds_interval": [5400.0, 9000.0],
        "cost": 4.0,
        "cost_interval": [3.0, 5.0],
        "largest_learning_rate": 0.2,
        "best": 0.1,
        "definition": "the first step",
        "training": {"learning_rate": 0.1, "batch_size": 8, "steps": 60, "epochs": 10, "images": 48},
        "step_seconds": 0.5,
        "device": "cpu",
        "hardware": {"name": None, "speed": 1.0, "price_per_hour": None},
        "warnings": [],
        "curve": None,
    }
    return Forecast.model_validate(values | more)


def text(found: Forecast) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(_page(found))
    return captured.get()


def test_the_page_says_how_sure_it_is_and_what_it_costs() -> None:
    page = text(forecast())
    assert "[red]wide\N{REPLACEMENT CHARACTER} gets there in 40 steps (30-50, 80% sure), 2 h." in page
    assert "4 (3-5)" in page
    assert "stable up to" in page
    rough = text(
        forecast(confidence=None, seconds=None, cost=None, largest_learning_rate=None, warnings=["not_calibrated"])
    )
    assert "in 40 steps (30-50, a rough guess)." in rough
    assert ("cost" in rough, "stable up to" in rough) == (False, False)
    assert "Warnings: not_calibrated." in rough


@pytest.mark.parametrize(
    ("name", "speed", "told"),
    [
        (None, 1.0, "0.5 s on cpu"),
        ("L4", 1.0, "0.5 s on L4, as on cpu"),
        ("L4", 12.0, "0.5 s on L4 12 times as fast as cpu"),
        (None, 0.5, "0.5 s on a machine 0.5 times as fast as cpu"),
    ],
)
def test_whose_time_it_is_is_told(name: str | None, speed: float, told: str) -> None:
    assert told in text(forecast(hardware={"name": name, "speed": speed, "price_per_hour": None}))


@pytest.mark.parametrize(("seconds", "told"), [(0.05, "0.05 s"), (99, "99 s"), (130, "2.17 min"), (7200, "2 h")])
def test_durations(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_a_selection_asks_for_forecasts_and_for_a_proof(served: Served) -> None:
    add_model(served.database, "wanted")
    dataset = add_ready_dataset(served.database, tenant="default", content="f")
    told = served.run(
        *("select", dataset, "--model", "wanted", "--target", "0.2", "--price", "1.5", "--speed", "3"),
        *("--verify", "2", "--verify-budget", "600", "--no-wait", "--json"),
    ).json
    hardware = {"name": None, "speed": 3.0, "price_per_hour": 1.5}
    assert (told["target"]["target"]["value"], told["target"]["hardware"]) == (0.2, hardware)
    assert (told["verify"]["k"], told["verify"]["budget_seconds"]) == (2, 600.0)
    for options in (("--price", "2"), ("--speed", "2"), ("--verify-budget", "60")):
        refused = served.run("select", dataset, *options)
        assert refused.code == 2
        assert "add --" in refused.err
    for numbers in (("--target", "nan"), ("--verify", "1", "--verify-budget", "inf")):
        refused = served.run("select", dataset, "--model", "wanted", *numbers, "--no-wait", "--json")
        assert refused.code == 1
        assert "invalid_number" in refused.err
