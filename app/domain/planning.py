"""How long workers will take over a selection, from what admission measured of each model and what past ones took.

An evaluation loads the network, passes every image forward, some of them backward, and scores. What that costs beyond
the passes differs from machine to machine; so estimates are multiplied by what past evaluations took over theirs. A
speed that was measured on another kind of device than the wanted one is corrected by such ratios, or told apart.
"""

import heapq
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from app.domain.speeds import ModelSpeed, Past, Plan, Work, estimate

_STEPS = 200_000  # of all drawn schedules together: a tenth of a second
_FEWEST_DRAWS, _MOST_DRAWS = 50, 400
_LOW, _HIGH = 10, 90
_FEWEST_RATIOS = 3  # that a spread may be told from


def plan(models: Sequence[ModelSpeed], work: Work, workers: int, device: str, past: Iterable[Past]) -> Plan:
    """Return what a selection of these models takes some workers, each with one model at a time.

    A model that was evaluated before takes what it took then over its estimate, others what all models took that were
    measured on the same kind of device: the ratio of two kinds is in it.

    Args:
        models: in the order in which they are taken.
        work: with each.
        workers: of one kind.
        device: that kind.
        past: evaluations by workers of that kind.
    """
    if not models or workers < 1:
        raise ValueError("a plan takes at least one model and one worker")
    ratios = _Ratios(past)
    estimates = [estimate(model, work) for model in models]
    seconds = [estimated * ratios.typical(model) for model, estimated in zip(models, estimates, strict=True)]
    untold = {model.name: model for model in models if not ratios.has_any(model)}
    spread = [ratios.spread(model) for model in models]
    is_told = all(of_model.size for of_model in spread)
    return Plan(
        seconds=makespan(seconds, workers),
        interval=_interval(estimates, spread, workers) if is_told else None,
        first_seconds=min(seconds[:workers]),
        worker_seconds=sum(seconds),
        by_model=tuple((model.name, one) for model, one in zip(models, seconds, strict=True)),
        past=ratios.count,
        measured_elsewhere=tuple(name for name, model in untold.items() if model.measured_on != device),
    )


class _Ratios:
    """What past evaluations took over their estimates: of each model, and of all that were measured on one device."""

    def __init__(self, past: Iterable[Past]) -> None:
        found: dict[ModelSpeed, list[float]] = {}
        for one in past:
            found.setdefault(one.model, []).append(one.measured / one.estimated)
        self.count = sum(map(len, found.values()))
        self._own = {model.name: np.array(ratios) for model, ratios in found.items()}
        self._others: dict[str, NDArray[np.float64]] = {}
        self._typical: dict[str, float] = {}
        self._is_told: dict[str, bool] = {}
        for device in {model.measured_on for model in found}:
            there = [self._own[model.name] for model in found if model.measured_on == device]
            # Each model counts the same, however often it was evaluated.
            self._others[device] = np.concatenate([np.resize(ratios, max(map(len, there))) for ratios in there])
            self._is_told[device] = sum(map(len, there)) >= _FEWEST_RATIOS
            self._typical[device] = float(np.median([np.median(ratios) for ratios in there]))

    def has_any(self, model: ModelSpeed) -> bool:
        """Tell whether the model was evaluated, or another one whose speed was measured on the same kind of device."""
        return model.name in self._own or model.measured_on in self._others

    def spread(self, model: ModelSpeed) -> NDArray[np.float64]:
        """Return the ratios that a model may have; none where too few evaluations are known.

        One that was evaluated once or twice has its own typical ratio, and varies as other models do among themselves:
        more than it does from one evaluation to the next, so that an interval is rather too wide.
        """
        own = self._own.get(model.name)
        if own is not None and own.size >= _FEWEST_RATIOS:
            return own
        if not self._is_told.get(model.measured_on, False):
            return np.empty(0)
        others = self._others[model.measured_on]
        return others if own is None else float(np.median(own)) * others / self._typical[model.measured_on]

    def typical(self, model: ModelSpeed) -> float:
        """Return the ratio to expect of a model, 1 where nothing is known."""
        own = self._own.get(model.name)
        return self._typical.get(model.measured_on, 1.0) if own is None else float(np.median(own))


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Return when the last job ends, if each worker that becomes free takes the next one."""
    free = [0.0] * min(workers, len(seconds))
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)


def _interval(estimates: Sequence[float], spread: Sequence[NDArray[np.float64]], workers: int) -> tuple[float, float]:
    """Draw what each model takes from what it took, or from what other models did, again and again."""
    random = np.random.default_rng(0)
    draws = int(np.clip(_STEPS // len(estimates), _FEWEST_DRAWS, _MOST_DRAWS))
    drawn = [
        estimated * random.choice(of_model, size=draws) for estimated, of_model in zip(estimates, spread, strict=True)
    ]
    totals = [makespan(seconds, workers) for seconds in np.transpose(drawn).tolist()]
    low, high = np.percentile(totals, [_LOW, _HIGH])
    return float(low), float(high)
