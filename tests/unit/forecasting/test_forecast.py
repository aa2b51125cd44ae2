"""The forecast as a whole: verdicts, units, intervals, warnings, and what is handed on."""

import dataclasses
import json
import math

import numpy as np
import pytest

from app.domain.errors import BadRequest
from app.forecasting import bilinear
from app.forecasting.calibration import Calibration, CalibrationPoint
from app.forecasting.forecast import forecast
from app.forecasting.linearisation import linearise
from app.forecasting.target import Target, time_to_target
from app.forecasting.training import Training
from tests.unit.forecasting.toy import Toy

TOY = Toy.random(images=30, dimensions=60, classes=3)
TOY.jacobian_NDK *= 4
TRAINING = Training(learning_rate=0.02, batch_size=10, steps=200)
HALF = Target("fraction_of_initial", 0.5)


def calibration(ratios, spread=0.1, loss="cross_entropy"):
    rng = np.random.default_rng(0)
    points = [
        CalibrationPoint(
            architecture=f"net{family}",
            family=f"family{family}",
            eps=eps,
            predicted_steps=100 * ratio * math.exp(spread * rng.standard_normal()),
            real_steps=100,
            loss=loss,
        )
        for family in range(12)
        for eps, ratio in ratios.items()
    ]
    return Calibration.fit(points, loss=loss)


def test_the_steps_are_those_of_the_simulation_and_their_units_follow():
    network = TOY.linearise()
    found = forecast(network, TRAINING, HALF, step_seconds=0.5, price_per_hour=7.2)
    curve = bilinear.simulate(network, TRAINING, seeds=range(5))
    assert found.verdict == "reached"
    assert found.steps == time_to_target(curve, HALF).steps
    assert found.seconds == 0.5 * found.steps
    assert found.cost == pytest.approx(found.steps * 0.001)
    assert found.interval == (pytest.approx(found.steps / 1.35), pytest.approx(found.steps * 1.35))
    assert found.seconds_interval == tuple(0.5 * end for end in found.interval)
    assert found.cost_interval == pytest.approx([0.001 * end for end in found.interval])
    assert found.confidence is None
    assert set(found.warnings) == {"not_calibrated", "interval_not_calibrated"}
    np.testing.assert_allclose(found.curve.loss_T, np.median(curve.loss_ST, axis=0))
    assert (found.curve.low_T <= found.curve.loss_T).all()
    assert (found.curve.loss_T <= found.curve.high_T).all()
    assert found.level == pytest.approx(math.log(3) / 2)
    assert "0.5 of the first" in found.definition


def test_without_prices_there_are_no_prices():
    found = forecast(TOY.linearise(), TRAINING, HALF, price_per_hour=3.0)
    assert (found.seconds, found.cost, found.cost_interval) == (None, None, None)


def test_what_is_not_reached_has_its_best_loss():
    found = forecast(TOY.linearise(), TRAINING, Target("fraction_of_initial", 0.001), step_seconds=1.0)
    assert (found.verdict, found.steps, found.interval, found.seconds) == ("not_reached", None, None, None)
    assert found.best == pytest.approx(found.curve.loss_T.min(), rel=0.05)


@pytest.mark.parametrize("method", ["bilinear", "linear_probe", "frozen_kernel", "gradient_flow", "diffusion"])
def test_every_method_forecasts(method):
    toy = Toy.random(images=30, dimensions=60, head=0.1)
    found = forecast(toy.linearise(), TRAINING, HALF, method=method, seeds=2)
    assert (found.verdict, found.method) == ("reached", method)
    assert "zero_head_leaves_head_kernel_only" not in found.warnings


def test_a_zero_heads_frozen_kernel_is_told_to_be_the_heads():
    found = forecast(TOY.linearise(), TRAINING, HALF, method="frozen_kernel")
    probe = forecast(TOY.linearise(), TRAINING, HALF, method="linear_probe")
    assert "zero_head_leaves_head_kernel_only" in found.warnings
    assert found.steps == probe.steps
    assert forecast(TOY.linearise(), TRAINING, HALF).steps < probe.steps


def test_a_calibration_moves_curve_and_steps_alike():
    network = TOY.linearise()
    raw = forecast(network, TRAINING, HALF)
    found = forecast(network, TRAINING, HALF, calibration({0.5: 2.0, 0.1: 2.0}, spread=0.02))
    assert found.steps == pytest.approx(raw.steps / 2, rel=0.04)
    assert found.curve.loss_T[int(found.steps)] == pytest.approx(found.level, rel=0.05)
    np.testing.assert_allclose(found.curve.loss_T[10:90:10], raw.curve.loss_T[20:180:20], rtol=0.06)
    assert found.confidence == 0.8
    assert 1.01 < found.interval[1] / found.steps < 1.2
    assert found.warnings == ()


def test_a_calibrated_forecast_reaches_as_far_as_the_training():
    """A target that the simulation reaches after the last step is reached by a training that is twice as fast."""
    network = TOY.linearise()
    steps = forecast(network, TRAINING, HALF).steps
    short = dataclasses.replace(TRAINING, steps=int(0.7 * steps))
    assert forecast(network, short, HALF).verdict == "not_reached"
    found = forecast(network, short, HALF, calibration({0.9: 2.0, 0.5: 2.0}))
    assert found.verdict == "reached"
    assert len(found.curve.steps_T) == short.steps + 1


def test_levels_beyond_the_calibration_are_told():
    found = forecast(TOY.linearise(), TRAINING, HALF, calibration({0.25: 1.2, 0.1: 1.4}))
    assert "beyond_calibrated_levels" in found.warnings


def test_the_interval_is_at_least_the_seeds():
    network = TOY.linearise()
    noisy = dataclasses.replace(TRAINING, batch_size=1, learning_rate=0.03)
    found = forecast(network, noisy, HALF, calibration({0.5: 1.0, 0.25: 1.0}, spread=1e-6), seeds=15)
    time = time_to_target(bilinear.simulate(network, noisy, seeds=range(15)), HALF)
    assert time.low < time.high
    assert found.interval[0] == pytest.approx(time.low, abs=1)
    assert found.interval[1] == pytest.approx(time.high, abs=1)


def test_a_rate_over_the_limit_is_unstable_and_gets_no_number():
    wild = dataclasses.replace(TRAINING, learning_rate=50.0)
    found = forecast(TOY.linearise(), wild, HALF, step_seconds=1.0, price_per_hour=1.0)
    assert (found.verdict, found.steps, found.curve, found.cost) == ("unstable", None, None, None)
    assert "learning_rate_over_limit" in found.warnings
    assert found.largest_learning_rate < 50
    calm = dataclasses.replace(TRAINING, learning_rate=0.9 * found.largest_learning_rate)
    assert forecast(TOY.linearise(), calm, HALF).verdict != "unstable"


def test_a_simulation_that_blows_up_is_unstable_though_the_start_is_not():
    """The backbone of a zero head has no curvature at the start and more and more of it as the head grows."""
    toy = Toy.random(images=30, dimensions=60)
    toy.jacobian_NDK *= 600
    network = toy.linearise()
    training = Training(learning_rate=1.0, batch_size=30, steps=300, loss="squared")
    limit = forecast(network, training, HALF).largest_learning_rate
    found = forecast(network, dataclasses.replace(training, learning_rate=0.9 * limit), HALF)
    assert found.verdict == "unstable"
    assert "simulation_diverged" in found.warnings


def test_a_rate_between_the_limits_is_doubted():
    network = TOY.linearise().without_backbone()
    limit = forecast(network, TRAINING, HALF).largest_learning_rate
    between = dataclasses.replace(TRAINING, learning_rate=1.2 * limit)
    assert "learning_rate_may_be_unstable" in forecast(network, between, HALF).warnings


def test_what_was_not_measured_is_told():
    toy, decaying = TOY, dataclasses.replace(TRAINING, weight_decay=1e-2)
    assert "backbone_decay_not_measured" in forecast(toy.linearise(decay_NQ=None), decaying, HALF).warnings
    assert "backbone_decay_not_measured" not in forecast(toy.linearise(), decaying, HALF).warnings
    hardly = dataclasses.replace(TRAINING, weight_decay=1e-4)
    assert "backbone_decay_not_measured" not in forecast(toy.linearise(decay_NQ=None), hardly, HALF).warnings
    large = dataclasses.replace(TRAINING, batch_size=64)
    assert "batch_holds_all_measured_images" in forecast(toy.linearise(), large, HALF, num_images=500).warnings
    early = dataclasses.replace(TRAINING, steps=40)
    found = forecast(toy.linearise(), early, Target("fraction_of_drop", 0.1))
    assert "loss_still_falling_at_last_step" in found.warnings


def test_nested_subsets_lengthen_the_time_towards_more_images():
    network = TOY.linearise()
    long = dataclasses.replace(TRAINING, steps=600)
    plain = forecast(network, long, HALF, num_images=600)
    longer = forecast(network, long, HALF, num_images=600, extrapolation="nested_subsets")
    assert plain.steps == forecast(network, long, HALF).steps
    assert longer.steps > plain.steps


@pytest.mark.parametrize(
    ("param", "changes"),
    [
        ("method", {"method": "guess"}),
        ("extrapolation", {"extrapolation": "line"}),
        ("seeds", {"seeds": 0}),
        ("num_images", {"num_images": 29}),
    ],
)
def test_arguments_out_of_range_are_refused(param, changes):
    with pytest.raises(BadRequest) as refusal:
        forecast(TOY.linearise(), TRAINING, HALF, **changes)
    assert (refusal.value.code, refusal.value.param) == ("invalid_forecast", param)


@pytest.mark.parametrize("rate", [0.02, 50.0])
def test_a_forecast_survives_json(rate):
    long = dataclasses.replace(TRAINING, steps=500, learning_rate=rate)
    found = forecast(linearise(TOY.features_ND, TOY.labels_N), long, Target("accuracy", 0.9), step_seconds=1.0)
    data = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert data["verdict"] == found.verdict
    assert data["steps"] == found.steps
    assert data["interval"] == (None if found.interval is None else list(found.interval))
    if found.curve is not None:
        assert data["curve"]["steps"][0] == 0
        assert data["curve"]["steps"][-1] == 500
        assert len(data["curve"]["loss"]) == len(data["curve"]["steps"]) <= 200
        assert data["curve"]["accuracy"][0] == pytest.approx(1 / 3)
