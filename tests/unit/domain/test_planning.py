"""The plan of a selection."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.planning import makespan, plan
from app.domain.speeds import ModelSpeed, Past, Work, estimate

FAST, SLOW = ModelSpeed("fast", 0.5, 100.0, "cpu"), ModelSpeed("slow", 2.0, 10.0, "cpu")
THIRD = ModelSpeed("third", 1.0, 50.0, "cpu")
WORK = Work(images=300, gradient_images=200)


def test_an_estimate_grows_with_everything_that_is_done() -> None:
    little = estimate(FAST, Work(images=100, gradient_images=0))
    assert little > 0.5 + 100 / 100
    assert estimate(FAST, Work(images=200, gradient_images=0)) - little == pytest.approx(1 + 0.4)
    assert estimate(FAST, Work(images=100, gradient_images=100)) - little == pytest.approx(7.0)
    assert estimate(FAST, Work(100, 500)) == estimate(FAST, Work(100, 100)), "there are no more images than these"
    assert estimate(FAST, Work(100, 0, forecast_images=50)) - little == pytest.approx(10.0)
    assert estimate(SLOW, WORK) > estimate(FAST, WORK)


def test_a_model_that_is_never_passed_backward_is_not_charged_for_it() -> None:
    forward = dataclasses.replace(FAST, has_gradients=False)
    assert estimate(forward, Work(100, 100, 100)) == estimate(FAST, Work(100, 0, 0)) < estimate(FAST, Work(100, 100))


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12), st.integers(1, 5))
def test_makespan_is_that_of_workers_who_take_the_next_job(seconds: list[float], workers: int) -> None:
    free = [0.0] * workers
    for one in seconds:
        next_free = free.index(min(free))
        free[next_free] += one
    assert makespan(seconds, workers) == pytest.approx(max(free))
    assert max(seconds) <= makespan(seconds, workers) + 1e-9
    assert makespan(seconds, 1) == pytest.approx(sum(seconds))


def test_without_a_past_the_estimates_stand_and_no_interval_is_claimed() -> None:
    found = plan([FAST, SLOW, FAST], WORK, 2, "cpu", [])
    fast, slow = estimate(FAST, WORK), estimate(SLOW, WORK)
    assert found.seconds == pytest.approx(max(slow, 2 * fast))
    assert (found.first_seconds, found.worker_seconds) == (pytest.approx(fast), pytest.approx(2 * fast + slow))
    assert (found.interval, found.past) == (None, 0)
    assert found.by_model == (("fast", fast), ("slow", slow), ("fast", fast))


def test_a_model_takes_what_it_took_and_others_what_all_did() -> None:
    past = [Past(FAST, 10.0, 20.0), Past(FAST, 5.0, 10.0), Past(FAST, 1.0, 2.0), Past(THIRD, 1.0, 4.0)]
    found = plan([FAST, SLOW], WORK, 1, "cpu", past)
    assert dict(found.by_model) == {
        "fast": pytest.approx(2 * estimate(FAST, WORK)),
        "slow": pytest.approx(3 * estimate(SLOW, WORK)),
    }
    assert found.past == 4
    assert found.interval is not None
    low, high = found.interval
    slow = estimate(SLOW, WORK)
    assert low == pytest.approx(2 * estimate(FAST, WORK) + 2 * slow)
    assert high == pytest.approx(2 * estimate(FAST, WORK) + 4 * slow)


def test_a_model_evaluated_once_varies_as_models_do_among_themselves() -> None:
    others = [Past(dataclasses.replace(THIRD, name=f"model-{n}"), 1.0, 1.0 + n / 10) for n in range(10)]
    once = [Past(FAST, 10.0, 40.0)]
    found = plan([FAST], WORK, 1, "cpu", [*others, *once])
    assert found.seconds == pytest.approx(4 * estimate(FAST, WORK))
    assert found.interval is not None
    low, high = found.interval
    assert 0.6 * found.seconds < low < 0.8 * found.seconds
    assert 1.1 * found.seconds < high < 3 * found.seconds
    assert plan([FAST], WORK, 1, "cpu", once).interval is None, "of one evaluation nobody knows how it varies"


class TestAnotherDevice:
    """Models that were measured on a GPU and on the CPU, planned for the GPU."""

    TESLA = dataclasses.replace(THIRD, measured_on="Tesla")
    SECOND = dataclasses.replace(TESLA, name="second")

    def test_without_any_measurement_there_it_is_told(self) -> None:
        found = plan([FAST, self.TESLA, SLOW, FAST], WORK, 1, "Tesla", [])
        assert found.measured_elsewhere == ("fast", "slow")
        assert dict(found.by_model)["fast"] == estimate(FAST, WORK)
        assert found.interval is None

    def test_what_was_measured_there_tells_nothing_of_the_others(self) -> None:
        past = [Past(self.TESLA, 1.0, 3.0)]
        found = plan([FAST, self.TESLA, self.SECOND], WORK, 1, "Tesla", past)
        assert found.measured_elsewhere == ("fast",)
        assert dict(found.by_model) == {
            "fast": pytest.approx(estimate(FAST, WORK)),
            "third": pytest.approx(3 * estimate(self.TESLA, WORK)),
            "second": pytest.approx(3 * estimate(self.SECOND, WORK)),
        }
        assert found.interval is None, "of one model nobody knows"

    def test_one_evaluation_there_is_the_scale_of_its_kind(self) -> None:
        past = [Past(FAST, 10.0, 1.0), *[Past(self.TESLA, 1.0, 3.0)] * 3]
        found = plan([SLOW, self.SECOND], WORK, 1, "Tesla", past)
        assert found.measured_elsewhere == ()
        slow, second = 0.1 * estimate(SLOW, WORK), 3 * estimate(self.SECOND, WORK)
        assert dict(found.by_model) == {"slow": pytest.approx(slow), "second": pytest.approx(second)}
        assert found.interval is None, "of one evaluation"
        found = plan([SLOW, self.SECOND], WORK, 1, "Tesla", [*past, *[Past(FAST, 10.0, 1.0)] * 2])
        assert found.interval == (pytest.approx(slow + second), pytest.approx(slow + second))


def test_the_first_ranking_comes_with_the_first_model_that_ends() -> None:
    orders = itertools.permutations([FAST, SLOW])
    assert [plan(order, WORK, 1, "cpu", []).first_seconds for order in orders] == [
        pytest.approx(estimate(FAST, WORK)),
        pytest.approx(estimate(SLOW, WORK)),
    ]
    assert plan([SLOW, FAST], WORK, 2, "cpu", []).first_seconds == pytest.approx(estimate(FAST, WORK))


@pytest.mark.parametrize(("models", "workers"), [([], 1), ([FAST], 0)])
def test_nothing_to_plan(models: list[ModelSpeed], workers: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        plan(models, WORK, workers, "cpu", [])
