"""Questions about a measured network: which training they are of, whose seconds, and what comes back."""

import dataclasses
import json

import numpy as np
import pytest

from app.domain.errors import BadRequest
from app.domain.finetuning import Recipe
from app.forecasting import question as module
from app.forecasting.measured_network import MeasuredNetwork, StepTime
from app.forecasting.question import Hardware, Question, answer
from app.forecasting.target import Target
from tests.fixtures.recorded import measured_network

RECIPE = Recipe(epochs=20, batch_size=8, learning_rates=(0.05, 0.02))
ASKED = Question(target=Target(value=0.5), recipe=RECIPE)


def movable(scale: float) -> MeasuredNetwork:
    """Return a network whose features move so many times as far as another's."""
    network = measured_network()
    return dataclasses.replace(network, kernel=network.kernel * np.float32(scale))


def test_a_question_survives_json():
    asked = Question(
        target=Target(kind="loss", value=0.3),
        recipe=dataclasses.replace(RECIPE, loss="squared"),
        hardware=Hardware(name="L4", speed=12, price_per_hour=0.8),
        method="linear_probe",
    )
    assert Question.from_dict(json.loads(json.dumps(asked.as_dict()))) == asked
    assert Question.from_dict({}) == Question()


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"speed": 0.0}, "speed"),
        ({"speed": -1.0}, "speed"),
        ({"speed": float("inf")}, "speed"),
        ({"speed": float("nan")}, "speed"),
        ({"price_per_hour": -0.5}, "price_per_hour"),
        ({"price_per_hour": float("nan")}, "price_per_hour"),
    ],
)
def test_impossible_hardware_is_refused(given, param):
    with pytest.raises(BadRequest) as refused:
        Hardware(**given)
    assert (refused.value.code, refused.value.param) == ("invalid_hardware", param)


def test_faster_hardware_takes_less_time_for_the_same_steps():
    usual = answer(measured_network(), ASKED)
    fast = answer(
        measured_network(),
        dataclasses.replace(ASKED, hardware=Hardware(name="L4", speed=4.0, price_per_hour=7.2)),
    )
    assert usual["steps"] == fast["steps"]
    assert fast["step_seconds"] == usual["step_seconds"] / 4
    assert fast["seconds"] == pytest.approx(usual["seconds"] / 4)
    assert fast["seconds_interval"] == pytest.approx([end / 4 for end in usual["seconds_interval"]])
    assert (usual["cost"], fast["cost"]) == (None, pytest.approx(fast["seconds"] * 7.2 / 3600))
    assert fast["hardware"] == {"name": "L4", "speed": 4.0, "price_per_hour": 7.2}
    untimed = answer(measured_network(step_seconds=None), dataclasses.replace(ASKED, hardware=Hardware(speed=4.0)))
    assert (untimed["step_seconds"], untimed["seconds"]) == (None, None)


def test_the_largest_learning_rate_with_which_the_linear_model_holds_is_taken():
    def taken(scale: float, *rates: float) -> tuple[float, bool]:
        recipe = dataclasses.replace(RECIPE, learning_rates=rates)
        found = answer(movable(scale), dataclasses.replace(ASKED, recipe=recipe))
        return found["training"]["learning_rate"], "features_leap" in found["warnings"]

    assert taken(1, 0.02, 0.05) == (0.05, False)
    # The classifier's own limit forbids the first, leaping features the second.
    assert taken(30, 50.0, 0.05, 0.001) == (0.001, False)
    assert taken(30, 0.05) == (0.05, True)
    assert taken(1, 50.0, 80.0)[0] == 50.0


def test_further_images_are_simulated_up_to_a_bound(monkeypatch):
    network = measured_network()
    further_MD = np.random.default_rng(1).standard_normal((30, 6)).astype(np.float32)
    more = dataclasses.replace(
        network,
        features_ND=np.vstack([network.features_ND, further_MD]),
        labels_N=np.concatenate([network.labels_N, np.arange(30) % 3]),
    )
    found = answer(more, ASKED)
    assert (found["measured_images"], found["simulated_images"]) == (24, 54)
    monkeypatch.setattr(module, "_MOST_IMAGES", 40)
    assert answer(more, ASKED)["simulated_images"] == 40


def test_many_measured_images_are_simulated_in_part(monkeypatch):
    monkeypatch.setattr(module, "_MOST_IMAGES", 9)
    found = answer(measured_network(), ASKED)
    assert (found["measured_images"], found["simulated_images"]) == (24, 9)


def test_a_batch_is_at_most_the_training_images():
    network = dataclasses.replace(
        measured_network(), step_times=(StepTime(8, 0.1, 0.1, 0.1), StepTime(32, 0.4, 0.4, 0.4))
    )
    of_all, beyond = (
        answer(network, dataclasses.replace(ASKED, recipe=dataclasses.replace(RECIPE, batch_size=size)))
        for size in (48, 4096)
    )
    assert of_all["step_seconds"] == beyond["step_seconds"] == pytest.approx(0.6)


def test_long_trainings_of_many_classes_have_one_order_of_the_images_or_are_refused(monkeypatch):
    assert answer(measured_network(), ASKED)["curve"]["low"] != answer(measured_network(), ASKED)["curve"]["high"]
    monkeypatch.setattr(module, "_LITTLE_WORK", 100)
    single = answer(measured_network(), ASKED)["curve"]
    assert single["low"] == single["high"]
    monkeypatch.setattr(module, "_MOST_WORK", 300)
    with pytest.raises(BadRequest) as refused:
        answer(measured_network(), ASKED)
    assert refused.value.code == "training_too_long"
    assert "for 3 classes simulates 100 at most" in refused.value.message


def test_a_training_too_long_to_simulate_is_refused():
    asked = dataclasses.replace(ASKED, recipe=dataclasses.replace(RECIPE, epochs=1000))
    with pytest.raises(BadRequest) as refused:
        answer(measured_network(), asked)
    assert (refused.value.code, refused.value.param) == ("training_too_long", "recipe.max_steps")
    shorter = dataclasses.replace(asked.recipe, max_steps=100)
    assert answer(measured_network(), dataclasses.replace(asked, recipe=shorter))["training"]["steps"] == 100


def test_forecasts_are_calibrated_by_at_least_three_other_families():
    shipped = module._points()
    assert {point.loss for point in shipped} == {"cross_entropy"}
    families = sorted({point.family for point in shipped})
    assert len(families) >= 4
    for architecture in ("torchvision:densenet121", *(f"timm:{family}" for family in families)):
        network = dataclasses.replace(measured_network(), architecture=architecture)
        found = answer(network, ASKED)
        assert found["confidence"] == 0.8
        assert not {"not_calibrated", "interval_not_calibrated"} & set(found["warnings"])
        low, high = found["interval"]
        assert 1 < high / found["steps"] < 2.5
        assert low < found["steps"]
    squared = answer(measured_network(), dataclasses.replace(ASKED, recipe=dataclasses.replace(RECIPE, loss="squared")))
    assert squared["confidence"] is None
    assert "not_calibrated" in squared["warnings"]


def test_two_other_families_are_too_few(monkeypatch):
    shipped = module._points()
    kept = sorted({point.family for point in shipped})[:3]
    monkeypatch.setattr(module, "_points", lambda: [point for point in shipped if point.family in kept])
    stranger = dataclasses.replace(measured_network(), architecture="timm:stranger")
    assert answer(stranger, ASKED)["confidence"] == 0.8
    own = dataclasses.replace(measured_network(), architecture=f"timm:{kept[0]}")
    assert answer(own, ASKED)["confidence"] is None
