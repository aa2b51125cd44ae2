"""Successive halving: which models are trained for how many steps, within a budget of seconds (arXiv:1502.07943).

All models are trained a little; the best of them, by validation accuracy, go on, several times over. A plan is made
before it is known who goes on, so it reckons with the slowest.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.domain.errors import EvaluationFailed

FACTOR = 3
"""Of so many models one goes on, with so many times the steps."""


@dataclass(frozen=True)
class Entrant:
    """A model with what its training costs.

    In the first rung it is trained ``trials`` times, once with each learning rate; the best goes on. A trial is looked
    at before its first step and after its last, and what goes on after the last of each rung.

    Attributes:
        name: of the model.
        step_seconds: of a step.
        look_seconds: of an evaluation between steps.
        rung_seconds: what each rung needs besides, such as the test.
        load_seconds: until network and images are there; of several models only one is loaded at a time, so that each
            rung loads them anew.
        trials: number of learning rates.
    """

    name: str
    step_seconds: float
    look_seconds: float = 0.0
    rung_seconds: float = 0.0
    load_seconds: float = 0.0
    trials: int = 1

    @property
    def costs(self) -> tuple[float, float, float, float]:
        """All seconds that are stated."""
        return self.step_seconds, self.look_seconds, self.rung_seconds, self.load_seconds


@dataclass(frozen=True)
class Rung:
    """``models`` models, each trained until it has done ``steps`` steps altogether."""

    steps: int
    models: int


@dataclass(frozen=True)
class Plan:
    """The rungs, and the seconds they take at most; each rung trains the best models of the one before."""

    rungs: tuple[Rung, ...]
    seconds: float


@dataclass(frozen=True)
class Standing:
    """How a training did on the validation split; None where it diverged."""

    accuracy: float | None
    loss: float | None

    @property
    def order(self) -> tuple[bool, float, float]:
        """Sorts the best first: the highest accuracy, then the lowest loss; what diverged comes last."""
        if self.accuracy is None or self.loss is None:
            return True, 0.0, 0.0
        return False, -self.accuracy, self.loss


def plan_halving(
    entrants: Sequence[Entrant],
    *,
    budget_seconds: float,
    full_steps: int,
    least_steps: int,
    factor: int = FACTOR,
    spent_seconds: float = 0.0,
) -> Plan:
    """Return the plan that trains longest within the budget.

    The first rung trains every model, each later one a ``factor``-th of them for ``factor`` times the steps, until one
    is left or all steps are done. With seconds enough for all models to do all steps, that is the only rung.

    Args:
        entrants: at least one model.
        budget_seconds: what the whole plan may take.
        full_steps: of a whole training.
        least_steps: of the first rung, below which a comparison says nothing.
        factor: at least 2.
        spent_seconds: of the budget, before the plan.

    Raises:
        EvaluationFailed: ``budget_too_small`` where not even a first rung of ``least_steps`` and what follows fits;
            the message says which budget would do.
        ValueError: an argument is out of range.
    """
    costs = [cost for entrant in entrants for cost in entrant.costs]
    if any(entrant.trials < 1 for entrant in entrants):
        raise ValueError("every model is tried with at least one learning rate")
    if not costs or not all(math.isfinite(cost) and cost >= 0 for cost in costs):
        raise ValueError("halving needs models, and finite costs of them")
    if factor < 2 or not least_steps >= 1 or full_steps < 1:
        raise ValueError("factor must be at least 2, steps at least 1")
    least = min(least_steps, full_steps)
    minimum = _plan(entrants, least, full_steps, factor)
    needed = minimum.seconds + spent_seconds
    if needed > budget_seconds:
        raise EvaluationFailed(
            "budget_too_small",
            f"comparing {len(entrants)} models by training takes at least {_up(needed)} s, "
            f"the budget is {budget_seconds:g} s",
            param="budget",
            hint=f"Allow {_up(needed)} s and a little more, or compare fewer models.",
        )
    # A longer first rung never costs less until rungs fall away, where it may: so every length is looked at.
    best = minimum
    for first in range(least + 1, full_steps + 1):
        longer = _plan(entrants, first, full_steps, factor)
        if longer.seconds + spent_seconds <= budget_seconds:
            best = longer
    return best


def survivors(standings: Mapping[str, Standing], models: int) -> list[str]:
    """Return the names of the ``models`` best; of equals, the first by name."""
    return sorted(standings, key=lambda name: (standings[name].order, name))[:models]


def _plan(entrants: Sequence[Entrant], first: int, full_steps: int, factor: int) -> Plan:
    """Return the rungs that follow from the length of the first, with their cost."""
    rungs = [Rung(first, len(entrants))]
    while rungs[-1].models > 1 and rungs[-1].steps < full_steps:
        previous = rungs[-1]
        rungs.append(Rung(min(full_steps, previous.steps * factor), math.ceil(previous.models / factor)))
    seconds, done = 0.0, 0
    for rung in rungs:
        costs = sorted(_cost(entrant, done, rung.steps, loads=len(entrants) > 1) for entrant in entrants)
        seconds += sum(costs[len(costs) - rung.models :])
        done = rung.steps
    return Plan(tuple(rungs), seconds)


def _cost(entrant: Entrant, done: int, steps: int, *, loads: bool) -> float:
    """Return the seconds of the rung in which a model goes on from ``done`` to ``steps`` steps."""
    once = entrant.rung_seconds + (entrant.load_seconds if loads else 0.0)
    trained = (steps - done) * entrant.step_seconds + entrant.look_seconds
    return once + trained if done else once + entrant.trials * (trained + entrant.look_seconds)


def _up(seconds: float) -> str:
    """Write seconds rounded up, so that the budget named is enough."""
    return f"{math.ceil(seconds * 10) / 10:g}" if seconds < 1e5 else f"{math.ceil(seconds)}"
