"""Plans of successive halving, by their properties."""

import contextlib
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.errors import EvaluationFailed
from workers.finetune.halving import Entrant, Plan, Standing, plan_halving, survivors

SECONDS = st.floats(0.001, 10)
OVERHEAD = st.floats(0, 5)
ENTRANTS = st.lists(
    st.builds(Entrant, st.just(""), SECONDS, OVERHEAD, OVERHEAD, OVERHEAD, st.integers(1, 3)), min_size=1, max_size=8
).map(lambda entrants: [replace(entrant, name=f"m{place}") for place, entrant in enumerate(entrants)])
STANDING = st.builds(Standing, st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.2, 1.0]))
STANDINGS = st.dictionaries(
    st.text("abc", min_size=1, max_size=3), st.just(Standing(None, None)) | STANDING, min_size=1, max_size=8
)


def spent(plan: Plan, orders: list[list[Entrant]]) -> float:
    """Seconds when the models of ``orders[r]`` are those that go on to rung r."""
    seconds, done = 0.0, 0
    for rung, entrants in zip(plan.rungs, orders, strict=True):
        for entrant in entrants[: rung.models]:
            seconds += entrant.rung_seconds
            if len(orders[0]) > 1:
                seconds += entrant.load_seconds
            for _ in range(1 if done else entrant.trials):
                if not done:
                    seconds += entrant.look_seconds
                for _ in range(rung.steps - done):
                    seconds += entrant.step_seconds
                seconds += entrant.look_seconds
        done = rung.steps
    return seconds


@settings(deadline=None)
@given(ENTRANTS, st.floats(0.01, 3000), st.integers(1, 120), st.integers(1, 40), st.integers(2, 4), st.data())
def test_no_plan_exceeds_its_budget_whoever_goes_on(
    entrants: list[Entrant], budget: float, full: int, least: int, factor: int, data: st.DataObject
) -> None:
    arguments = {"full_steps": full, "least_steps": least, "factor": factor}
    plan = None
    with contextlib.suppress(EvaluationFailed):
        plan = plan_halving(entrants, budget_seconds=budget, **arguments)
    if plan is None:
        with pytest.raises(EvaluationFailed, match="at least") as refused:
            plan_halving(entrants, budget_seconds=budget, **arguments)
        assert refused.value.code == "budget_too_small"
        named = float(refused.value.message.split("at least ")[1].split(" s")[0])
        assert named > budget
        assert plan_halving(entrants, budget_seconds=named, **arguments).rungs[0].steps >= min(least, full)
        return
    assert plan.seconds <= budget
    orders = [data.draw(st.permutations(entrants)) for _ in plan.rungs]
    assert spent(plan, orders) <= plan.seconds * (1 + 1e-9) + 1e-9
    assert plan.rungs[0].models == len(entrants)
    assert plan.rungs[0].steps >= min(least, full)
    steps = [rung.steps for rung in plan.rungs]
    assert steps == sorted(set(steps))
    assert steps[-1] <= full
    assert plan.rungs[-1].models == 1 or steps[-1] == full
    for before, after in zip(plan.rungs, plan.rungs[1:], strict=False):
        assert after.models == math.ceil(before.models / factor)
        assert after.steps == min(full, before.steps * factor)
    assert plan == plan_halving(entrants, budget_seconds=budget, **arguments)
    more = plan_halving(entrants, budget_seconds=2 * budget, **arguments)
    assert more.rungs[0].steps >= plan.rungs[0].steps


def test_the_worst_case_is_reckoned_exactly() -> None:
    entrants = [Entrant("fast", 1.0), Entrant("middle", 2.0, rung_seconds=1.0), Entrant("slow", 4.0)]
    plan = plan_halving(entrants, budget_seconds=113, full_steps=1000, least_steps=5)
    # 7 steps of each: 49 + 1 s; 14 more of the slowest: 56 s.
    assert [(rung.steps, rung.models) for rung in plan.rungs] == [(7, 3), (21, 1)]
    assert plan.seconds == 106
    assert plan_halving(entrants, budget_seconds=121, full_steps=1000, least_steps=5).seconds == 121


def test_every_learning_rate_is_looked_at_before_its_first_step_and_after_its_last() -> None:
    alone = Entrant("a", 1.0, look_seconds=4.0, rung_seconds=2.0, load_seconds=50.0, trials=3)
    # 10 steps and two looks, three times, and a test; what is loaded stays.
    assert plan_halving([alone], budget_seconds=1e4, full_steps=10, least_steps=1).seconds == 3 * (10 + 8) + 2
    two = plan_halving([alone, alone], budget_seconds=243, full_steps=100, least_steps=5, factor=2)
    # Twice 50 s to load, 5 steps and two looks three times, and a test; then one more loaded, 5 steps, look and test.
    assert [(rung.steps, rung.models) for rung in two.rungs] == [(5, 2), (10, 1)]
    assert two.seconds == 2 * (50 + 3 * (5 + 8) + 2) + (50 + 5 + 4 + 2)


def test_with_time_enough_all_models_do_all_steps() -> None:
    plan = plan_halving([Entrant("a", 1.0), Entrant("b", 2.0)], budget_seconds=300, full_steps=100, least_steps=10)
    assert [(rung.steps, rung.models) for rung in plan.rungs] == [(100, 2)]
    alone = plan_halving([Entrant("a", 1.0)], budget_seconds=42.5, full_steps=100, least_steps=10)
    assert [(rung.steps, rung.models) for rung in alone.rungs] == [(42, 1)]


@given(STANDINGS, st.integers(1, 8))
def test_the_best_on_the_validation_split_survive(standings: dict[str, Standing], models: int) -> None:
    left = survivors(standings, models)
    assert len(left) == min(models, len(standings))
    worst = standings[left[-1]]
    for name in standings.keys() - set(left):
        out = standings[name]
        if out.accuracy is None:
            continue
        assert worst.accuracy is not None
        assert out.accuracy <= worst.accuracy
        if out.accuracy == worst.accuracy:
            assert (out.loss, name) > (worst.loss, left[-1])


@pytest.mark.parametrize(
    "wrong",
    [{"full_steps": 0}, {"least_steps": 0}, {"factor": 1}, {"entrants": []}, {"entrants": [Entrant("a", math.nan)]}],
)
def test_impossible_arguments(wrong: dict[str, object]) -> None:
    arguments = {"entrants": [Entrant("a", 1.0)], "full_steps": 9, "least_steps": 1, "factor": 2, **wrong}
    entrants = arguments.pop("entrants")
    with pytest.raises(ValueError):
        plan_halving(entrants, budget_seconds=100, **arguments)  # type: ignore[arg-type]
