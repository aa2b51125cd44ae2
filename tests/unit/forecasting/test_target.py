"""Reading the time to a target off a curve."""

import numpy as np
import pytest

from app.domain.errors import BadRequest
from app.forecasting.curve import Curve, recorded, smoothed
from app.forecasting.losses import accuracies, residuals_and_losses
from app.forecasting.target import Target, time_to_target

STEPS = np.arange(101)


def curve(*losses, accuracy=None):
    loss_ST = np.stack(losses)
    return Curve(loss_ST, np.zeros_like(loss_ST) if accuracy is None else np.stack([accuracy] * len(losses)))


def test_each_definition_of_a_target():
    falling = curve(2 - 0.01 * STEPS, accuracy=STEPS / 100)
    assert time_to_target(falling, Target("loss", 1.495)).steps == 51
    assert time_to_target(falling, Target("fraction_of_initial", 0.7475)).steps == 51
    assert time_to_target(falling, Target("fraction_of_drop", 0.255)).steps == 75
    assert time_to_target(falling, Target("accuracy", 0.605)).steps == 61
    assert time_to_target(falling, Target("fraction_of_drop", 0.255)).level == pytest.approx(1.255)
    sentences = {
        Target(kind, 0.5).definition for kind in ("loss", "fraction_of_initial", "fraction_of_drop", "accuracy")
    }
    assert len(sentences) == 4


def test_what_is_not_reached_says_how_far_it_got():
    time = time_to_target(curve(2 - 0.01 * STEPS), Target("loss", 0.5))
    assert (time.steps, time.low, time.high) == (None, None, None)
    assert time.best == pytest.approx(1.0)
    assert time_to_target(curve(2 - 0.01 * STEPS, accuracy=STEPS / 200), Target("accuracy", 0.9)).best == 0.5


def test_median_and_band_are_over_seeds():
    rates = [0.01, 0.012, 0.014, 0.016, 0.02]
    time = time_to_target(curve(*(2 - rate * STEPS for rate in rates)), Target("loss", 1.501))
    assert (time.low, time.steps, time.high) == (25, 36, 50)
    slow = time_to_target(curve(*(2 - rate * STEPS for rate in [0.001, 0.012, 0.014])), Target("loss", 1.501))
    assert (slow.low, slow.steps, slow.high) == (36, 42, None)
    half = time_to_target(curve(*(2 - rate * STEPS for rate in [0.001, 0.002, 0.014])), Target("loss", 1.501))
    assert (half.steps, half.low) == (None, 36)


def test_one_lucky_batch_is_no_arrival():
    loss = 2 - 0.01 * STEPS
    loss[10] = 0.9
    assert time_to_target(curve(loss), Target("loss", 1.601)).steps > 30


def test_smoothing_leaves_a_line_and_lags_nowhere():
    line = (3 - 0.1 * np.arange(9.0))[None]
    np.testing.assert_allclose(smoothed(line), line)
    noisy = np.random.default_rng(0).standard_normal((2, 9))
    np.testing.assert_allclose(smoothed(noisy)[:, 4], noisy[:, 2:7].mean(axis=1))
    np.testing.assert_allclose(smoothed(noisy)[:, [0, -1]], noisy[:, [0, -1]])
    np.testing.assert_allclose(smoothed(noisy)[:, 1], noisy[:, :3].mean(axis=1))
    np.testing.assert_allclose(smoothed(noisy[:, :2]), noisy[:, :2])


@pytest.mark.parametrize(
    ("kind", "value", "param"),
    [
        ("epochs", 1, "kind"),
        ("loss", 0.0, "value"),
        ("loss", float("nan"), "value"),
        ("fraction_of_initial", 1.0, "value"),
        ("fraction_of_drop", -0.1, "value"),
        ("accuracy", 1.01, "value"),
    ],
)
def test_impossible_targets_are_refused(kind, value, param):
    with pytest.raises(BadRequest) as refusal:
        Target(kind, value)
    assert (refusal.value.code, refusal.value.param) == ("invalid_target", param)


def test_what_overflowed_stays_infinite_and_has_diverged():
    found = recorded([np.array([1.0, 1.0]), np.array([np.nan, 0.5]), np.array([0.1, 0.2])], [np.zeros(2)] * 3)
    np.testing.assert_array_equal(found.loss_ST, [[1, np.inf, np.inf], [1, 0.5, 0.2]])
    assert found.diverged
    assert not curve(2 - 0.01 * STEPS).diverged
    assert curve(1 + 0.03 * STEPS).diverged
    peak = curve(1 + 3 * np.exp(-0.5 * (STEPS - 20.0) ** 2 / 9))
    assert peak.spiked
    assert not peak.diverged


def test_equal_outputs_share_the_point():
    outputs_CN = np.array([[0.0, 2.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert accuracies(outputs_CN, np.array([0, 0, 1])) == pytest.approx((1 / 3 + 1 + 1 / 2) / 3)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_residuals_are_the_losses_gradient_and_huge_outputs_do_not_overflow(loss):
    rng = np.random.default_rng(0)
    outputs_CN, target_CN = rng.standard_normal((4, 3)), np.eye(4)[:, [0, 3, 3]]
    residual_CN, _ = residuals_and_losses(loss, outputs_CN, target_CN)
    for place in np.ndindex(4, 3):
        moved = [outputs_CN.copy(), outputs_CN.copy()]
        moved[0][place] += 1e-6
        moved[1][place] -= 1e-6
        up, down = (residuals_and_losses(loss, values, target_CN)[1].sum() for values in moved)
        assert residual_CN[place] == pytest.approx((up - down) / 2e-6, abs=1e-6)
    assert np.isfinite(residuals_and_losses(loss, 1e3 * outputs_CN, target_CN)[1]).all()
