"""How long workers will take over a selection, from what admission measured of each model and what past ones took.

An evaluation loads the network, passes every image forward, some of them backward, and scores. What that costs beyond
the passes differs from machine to machine; so estimates are multiplied by what past evaluations took over theirs.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_GRADIENT_PASSES = 7.0  # four probes, each a backward pass, and the pass forward that they share
_FORECAST_PASSES = 20.0  # as many directions as there are, and whole training steps for their time
_IMAGE_SECONDS = 0.004  # reading, decoding and scoring
_EVALUATION_SECONDS = 0.8
_STEPS = 200_000  # of all drawn schedules together: a tenth of a second
_FEWEST_DRAWS, _MOST_DRAWS = 50, 400
_LOW, _HIGH = 10, 90


@dataclass(frozen=True)
class ModelSpeed:
    """What admission measured of a model: seconds to load it, and images a second forward through it."""

    name: str
    load_seconds: float
    images_per_second: float


@dataclass(frozen=True)
class Work:
    """What is done with each model.

    Attributes:
        images: evaluated.
        gradient_images: of them, those whose gradients are scored.
        forecast_images: of them, those whose gradients forecasts are made from; 0 without a target.
    """

    images: int
    gradient_images: int
    forecast_images: int = 0


@dataclass(frozen=True)
class Past:
    """An evaluation that was: what of, what it should have taken by ``estimate``, and what it took."""

    name: str
    estimated: float
    measured: float


@dataclass(frozen=True)
class Plan:
    """What a selection will take.

    Attributes:
        seconds: until the last model is ranked.
        interval: of these seconds, for 80 % of selections; None without past evaluations to tell from.
        first_seconds: until the first model is.
        worker_seconds: of all workers together.
        by_model: seconds of each model, in the order in which they are taken.
        past: how many evaluations the plan rests on.
    """

    seconds: float
    interval: tuple[float, float] | None
    first_seconds: float
    worker_seconds: float
    by_model: tuple[tuple[str, float], ...]
    past: int


def estimate(model: ModelSpeed, work: Work) -> float:
    """Return the seconds of an evaluation on a machine of which nothing more is known."""
    passes = (
        work.images
        + _GRADIENT_PASSES * min(work.gradient_images, work.images)
        + _FORECAST_PASSES * min(work.forecast_images, work.images)
    )
    return _EVALUATION_SECONDS + model.load_seconds + passes / model.images_per_second + work.images * _IMAGE_SECONDS


def plan(models: Sequence[ModelSpeed], work: Work, workers: int, past: Iterable[Past]) -> Plan:
    """Return what a selection of these models takes some workers, each with one model at a time.

    A model that was evaluated before takes what it took then over its estimate, others what all models did.

    Args:
        models: in the order in which they are taken.
        work: with each.
        workers: of one kind.
        past: evaluations by workers of that kind.
    """
    if not models or workers < 1:
        raise ValueError("a plan takes at least one model and one worker")
    ratios: dict[str, list[float]] = {}
    for one in past:
        ratios.setdefault(one.name, []).append(one.measured / one.estimated)
    estimates = [estimate(model, work) for model in models]
    typical = {name: float(np.median(found)) for name, found in ratios.items()}
    everywhere = float(np.median(list(typical.values()))) if typical else 1.0
    seconds = [
        estimated * typical.get(model.name, everywhere) for model, estimated in zip(models, estimates, strict=True)
    ]
    return Plan(
        seconds=makespan(seconds, workers),
        interval=_interval(models, estimates, ratios, workers) if ratios else None,
        first_seconds=min(seconds[:workers]),
        worker_seconds=sum(seconds),
        by_model=tuple((model.name, one) for model, one in zip(models, seconds, strict=True)),
        past=sum(map(len, ratios.values())),
    )


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Return when the last job ends, if each worker that becomes free takes the next one."""
    free = [0.0] * min(workers, len(seconds))
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)


def _interval(
    models: Sequence[ModelSpeed], estimates: Sequence[float], ratios: Mapping[str, Sequence[float]], workers: int
) -> tuple[float, float]:
    """Draw what each model takes from what it took, or from what another model did, again and again."""
    random = np.random.default_rng(0)
    draws = int(np.clip(_STEPS // len(models), _FEWEST_DRAWS, _MOST_DRAWS))
    anyones = np.concatenate([np.resize(ratios[name], max(map(len, ratios.values()))) for name in sorted(ratios)])
    drawn = [
        estimated * random.choice(ratios.get(model.name, anyones), size=draws)
        for model, estimated in zip(models, estimates, strict=True)
    ]
    totals = [makespan(seconds, workers) for seconds in np.transpose(drawn).tolist()]
    low, high = np.percentile(totals, [_LOW, _HIGH])
    return float(low), float(high)
