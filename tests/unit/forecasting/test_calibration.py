"""Bias of earlier forecasts, without the model's own family, and the interval's coverage."""

import json
import math

import numpy as np
import pytest

from app.domain.errors import BadRequest
from app.forecasting.calibration import Calibration, CalibrationPoint, load, save

LEVELS = (0.5, 0.25, 0.1, 0.05)
BIAS = dict(zip(LEVELS, (1.04, 1.28, 1.69, 1.96), strict=True))


def points(rng, families=8, cases=3, spread=0.2, between=0.0):
    found = []
    for family in range(families):
        shift = between * rng.standard_normal()
        for case in range(cases):
            for eps in LEVELS:
                real = 100 * math.exp(rng.standard_normal())
                error = math.exp(shift + spread * rng.standard_normal())
                found.append(
                    CalibrationPoint(
                        architecture=f"net{family}-{case}",
                        family=f"family{family}",
                        eps=eps,
                        predicted_steps=real * BIAS[eps] * error,
                        real_steps=real,
                    )
                )
    return found


def test_the_bias_is_the_median_ratio_at_each_level_and_log_linear_between():
    calibration = Calibration.fit(points(np.random.default_rng(0), spread=0.0), loss="cross_entropy")
    np.testing.assert_allclose(calibration.ratio(np.array(LEVELS)), list(BIAS.values()))
    assert calibration.ratio(np.array([math.sqrt(0.5 * 0.25)]))[0] == pytest.approx(math.sqrt(1.04 * 1.28))
    np.testing.assert_allclose(calibration.ratio(np.array([0.9, 0.01, 0.0])), [1.04, 1.96, 1.96])
    assert calibration.covers(0.5)
    assert calibration.covers(0.05)
    assert not calibration.covers(0.04)
    assert not calibration.covers(0.6)


def test_a_familys_own_points_do_not_count_for_it():
    rng = np.random.default_rng(0)
    others = points(rng)
    own = [
        CalibrationPoint(architecture="odd", family="odd", eps=eps, predicted_steps=9000.0, real_steps=1.0)
        for eps in LEVELS
        for _ in range(50)
    ]
    without = Calibration.fit(others + own, loss="cross_entropy", without_family="odd")
    expected = Calibration.fit(others, loss="cross_entropy")
    np.testing.assert_array_equal(without.log_ratio_K, expected.log_ratio_K)
    np.testing.assert_array_equal(without.error_M, expected.error_M)
    assert len(Calibration.fit(others + own, loss="cross_entropy").error_M) == len(others + own)


@pytest.mark.parametrize("seed", range(12))
def test_a_correction_is_applied_where_families_correct_each_other_and_nowhere_else(seed):
    rng = np.random.default_rng(seed)
    # With little bias of its own, each family's luck corrects the others the wrong way.
    found = [
        CalibrationPoint(
            architecture=family,
            family=family,
            eps=eps,
            predicted_steps=100 * math.exp(bias + 0.1 * rng.standard_normal()),
            real_steps=100.0,
        )
        for family, bias in zip("abcd", 0.3 * rng.standard_normal(4) + 0.15, strict=True)
        for eps in LEVELS
        for _ in range(3)
    ]
    corrected, plain = [], []
    for point in found:
        error = math.log(point.predicted_steps / point.real_steps)
        others = [other for other in found if other.family != point.family and other.eps == point.eps]
        plain.append(abs(error))
        bias = np.median([math.log(other.predicted_steps / other.real_steps) for other in others])
        corrected.append(abs(error - bias))
    calibration = Calibration.fit(found, loss="cross_entropy")
    helps = np.mean(corrected) < np.mean(plain)
    assert calibration.known
    assert bool((calibration.log_ratio_K != 0).all()) == helps
    assert bool((calibration.log_ratio_K == 0).all()) == (not helps)
    np.testing.assert_allclose(np.sort(calibration.error_M), np.sort(corrected if helps else plain))


def test_another_losss_points_do_not_count():
    assert not Calibration.fit(points(np.random.default_rng(0)), loss="squared").known


@pytest.mark.parametrize("confidence", [0.8, 0.9])
def test_the_interval_covers_as_stated(confidence):
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(150):
        earlier = points(rng, families=7, between=0.1)
        calibration = Calibration.fit(earlier, loss="cross_entropy", confidence=confidence)
        for new in points(rng, families=1, cases=2, between=0.1):
            calibrated = new.predicted_steps / calibration.ratio(np.array([new.eps]))[0]
            factor = calibration.factor(new.eps)
            inside.append(calibrated / factor <= new.real_steps <= calibrated * factor)
    assert len(inside) == 1200
    assert confidence - 0.05 < np.mean(inside) < confidence + 0.05


def test_an_error_is_that_of_a_calibration_without_the_family():
    rng = np.random.default_rng(2)
    odd = [
        CalibrationPoint(architecture="odd", family="odd", eps=0.1, predicted_steps=1690.0 * 4, real_steps=1000.0)
        for _ in range(30)
    ]
    calibration = Calibration.fit(points(rng, spread=0.0) + odd, loss="cross_entropy")
    assert calibration.error_M.max() == pytest.approx(math.log(4))


def test_levels_with_more_spread_have_wider_intervals():
    rng = np.random.default_rng(3)
    wide = [
        CalibrationPoint(
            architecture="a",
            family=f"family{number % 8}",
            eps=0.02,
            predicted_steps=100 * math.exp(rng.standard_normal()),
            real_steps=100,
        )
        for number in range(40)
    ]
    calibration = Calibration.fit(points(rng, spread=0.05) + wide, loss="cross_entropy")
    assert calibration.factor(0.02) > 2 > 1.2 > calibration.factor(0.25)


def test_too_few_points_give_no_interval():
    few = points(np.random.default_rng(0), families=1, cases=3)
    calibration = Calibration.fit(few, loss="cross_entropy")
    assert calibration.known
    assert calibration.factor(0.1) is None
    two = Calibration.fit(points(np.random.default_rng(0), families=1, cases=2), loss="cross_entropy")
    assert not two.known
    np.testing.assert_array_equal(two.ratio(np.array([0.5, 0.1])), [1, 1])
    with pytest.raises(ValueError, match="confidence"):
        Calibration.fit(few, loss="cross_entropy", confidence=1.0)


def test_points_survive_json_and_bad_rows_are_refused():
    before = points(np.random.default_rng(0), families=1)
    rows = json.loads(json.dumps(save(before)))
    assert load(rows) == before
    for change, param in [
        ({"eps": 1.0}, "eps"),
        ({"real_steps": 0.0}, "real_steps"),
        ({"predicted_steps": math.inf}, "predicted_steps"),
        ({"unknown": 1}, "rows"),
    ]:
        with pytest.raises(BadRequest) as refusal:
            load([{**rows[0], **change}])
        assert (refusal.value.code, refusal.value.param) == ("invalid_calibration", param)
