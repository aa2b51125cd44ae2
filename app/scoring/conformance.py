"""Whether a score keeps its promises: what every built-in score is held to, and one's own can be.

Legend: N images.
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np

from app.domain.errors import EvaluationFailed
from app.scoring.contract import Group, Input, Invariance, Score
from app.scoring.measurement import ARRAYS, measure_score
from app.scoring.synthetic import FACTS, Sample, noisy_classes, sample_of

INVARIANCES: tuple[Invariance, ...] = get_args(Invariance)
KEPT = 1e-8  # share of the value by which it may move under a change it is stated to be free of
NOTICED = 1e-5  # share of the value by which it has to move under some change it is not stated to be free of
_NO_RESULT = "invalid_result"
_SHAPES = {"tall": (60, 7), "wide": (25, 60)}


@dataclass(frozen=True)
class Check:
    """One promise, and whether it was kept.

    Attributes:
        name: of the promise.
        passed: whether it was kept.
        detail: what was found; empty where there is nothing to say.
    """

    name: str
    passed: bool
    detail: str = ""


def checks(score: Score) -> Iterator[Check]:
    """Yield every check of a score; nothing that the score raises keeps the others from being made.

    A score whose function returns no proper result is told so once and not tested further. What a score prints goes to
    standard error.
    """
    yield Check("the statement is complete", not (problem := statement_problem(score)), problem)
    if score.zoo_relative:
        return
    promises: list[tuple[str, Callable[[Score], str]]] = [
        ("the value is finite, the result's arrays are per image", _result_problem),
        *(
            (
                f"{'un' * (change in score.invariances)}changed by {change.replace('_', ' ')}",
                functools.partial(unchanged_problem if change in score.invariances else changed_problem, change=change),
            )
            for change in INVARIANCES
        ),
        *((f"odd input: {name}", functools.partial(odd_problem, sample=make())) for name, make in ODD.items()),
        ("the input is left alone", _mutation_problem),
        ("the same on every run", _repeat_problem),
    ]
    if better_samples(score):
        promises.append(("larger is better", better_problem))
    for name, problem_of in promises:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                problem = problem_of(score)
        except EvaluationFailed as error:
            if error.code == _NO_RESULT:
                yield Check(name, passed=False, detail=error.message)
                return
            problem = f"refused ordinary data: {error.message} ({error.code})"
        except (Exception, SystemExit) as error:  # noqa: BLE001  # foreign code: whatever it raises is the finding
            problem = f"raised {type(error).__name__}: {error}"
        yield Check(name, not problem, problem)


def statement_problem(score: Score) -> str:
    """Return what is wrong with what a score says of itself; empty if nothing is."""
    problems = [
        f"{field} is empty" for field in ("name", "meaning", "paper", "equation", "cost") if not getattr(score, field)
    ]
    if not score.name.isidentifier() or score.name != score.name.lower():
        problems.append(f"the name {score.name!r} is not made of small letters, digits and underscores")
    if score.meaning and not score.meaning.endswith("."):
        problems.append("the meaning is not a sentence with a full stop")
    if score.group not in get_args(Group):
        problems.append(f"{score.group!r} is no group: choose from {', '.join(get_args(Group))}")
    problems += [f"{change!r} is no invariance" for change in score.invariances - set(INVARIANCES)]
    problems += [f"{name!r} is no input" for name in score.inputs if name not in get_args(Input)]
    if bool(score.implementation) == score.zoo_relative:
        problems.append("a score has either an implementation or parts that it combines")
    elif score.implementation and score.implementation.count(":") != 1:
        problems.append("the implementation is not written as module:function")
    return "; ".join(problems)


def unchanged_problem(score: Score, change: Invariance) -> str:
    """Return where a value moved under a change that the score is stated to be free of."""
    for shape, size in _SHAPES.items():
        sample = noisy_classes(*size)
        expected = measure_score(score, sample.panel())
        for seed in range(3):
            actual = measure_score(score, sample.changed(change, seed).panel())
            if not _close(actual.value, expected.value, KEPT):
                return f"{shape} features: {expected.value!r} became {actual.value!r}"
            if not _close(actual.stderr or 0.0, expected.stderr or 0.0, 10 * KEPT):
                return f"{shape} features: the standard error {expected.stderr!r} became {actual.stderr!r}"
    return ""


def changed_problem(score: Score, change: Invariance) -> str:
    """Return that a value did not move under a change that the score does not claim to be free of."""
    sample = noisy_classes(*_SHAPES["tall"])
    expected = measure_score(score, sample.panel()).value
    for seed in range(5):
        if abs(measure_score(score, sample.changed(change, seed).panel()).value - expected) > NOTICED * abs(expected):
            return ""
    return f"the value did not move; state {change!r}"


def odd_problem(score: Score, sample: Sample) -> str:
    """Return how a score failed on unusual input, where it has to give a finite value or a typed refusal."""
    try:
        measure_score(score, sample.panel())
    except EvaluationFailed as error:
        return f"{error.message} ({error.code})" if error.code in {"score_not_finite", _NO_RESULT} else ""
    return ""


def better_samples(score: Score) -> tuple[Sample, ...]:
    """Return samples of which each is better than the one before, as far as such a score can know; none if unclear."""
    if "reference_features" in score.inputs:
        sample, noise_ND = noisy_classes(90, 10, spread=2.0), np.random.default_rng(0).normal(size=(90, 10))
        return tuple(
            dataclasses.replace(sample, reference_NR=sample.features_ND + much * noise_ND) for much in (20.0, 2.0, 0.2)
        )
    if score.group in {"features", "gradients", "head"}:
        return tuple(noisy_classes(90, 10, spread=spread) for spread in (0.0, 0.5, 2.0))
    if score.group == "source_data":
        return tuple(noisy_classes(90, 10, spread=2.0, remoteness=far) for far in (10.0, 1.0, 0.1))
    if "facts" in score.inputs:
        sample = noisy_classes(90, 10)
        return tuple(
            dataclasses.replace(sample, facts={name: fact * more for name, fact in FACTS.items()})
            for more in (0.1, 0.5, 1.0)
        )
    return ()


def better_problem(score: Score) -> str:
    """Return that a better model did not get a larger value."""
    values = [measure_score(score, sample.panel()).value for sample in better_samples(score)]
    if values == sorted(values) and values[0] < values[-1]:
        return ""
    return f"from worse to better the values are {', '.join(f'{value:.6g}' for value in values)}"


def _result_problem(score: Score) -> str:
    sample = noisy_classes(*_SHAPES["tall"])
    result = measure_score(score, sample.panel())
    arrays = {name: getattr(result, name) for name in ARRAYS}
    endless = [name for name, array in arrays.items() if array is not None and not np.isfinite(array).all()]
    return f"there are NaN or infinite numbers in {', '.join(endless)}" if endless else ""


def _mutation_problem(score: Score) -> str:
    sample = noisy_classes(*_SHAPES["tall"])
    before = [array.copy() for array in sample.arrays()]
    measure_score(score, sample.panel())  # a panel's arrays are read-only: writing to them raises
    kept = all(np.array_equal(*pair) for pair in zip(before, sample.arrays(), strict=True))
    return "" if kept else "an array of the caller changed"


def _repeat_problem(score: Score) -> str:
    values = {measure_score(score, noisy_classes(*_SHAPES["tall"]).panel()).value for _ in range(3)}
    return "" if len(values) == 1 else f"three runs gave {', '.join(map(repr, sorted(values)))}"


def _close(actual: float, expected: float, share: float) -> bool:
    return abs(actual - expected) <= max(share * abs(expected), 1e-9)


def _odd(images: int, dimensions: int, labels: list[int] | None = None) -> Sample:
    random = np.random.default_rng(5)
    classes = np.arange(images) % 3 if labels is None else np.array(labels)
    return sample_of(random.normal(size=(images, dimensions)), classes)


def _scaled(scale: float) -> Sample:
    ordinary = noisy_classes(40, 6)
    return sample_of(ordinary.features_ND * scale, ordinary.labels_N)


def _duplicates() -> Sample:
    return noisy_classes(20, 6).of(np.arange(40) % 20)


def _dead() -> Sample:
    ordinary = noisy_classes(40, 6)
    features_ND = np.hstack([ordinary.features_ND, np.zeros((40, 3)), np.full((40, 2), 0.1)])
    features_ND[3] = 0.0
    return sample_of(features_ND, ordinary.labels_N)


ODD: dict[str, Callable[[], Sample]] = {
    "all features equal": lambda: sample_of(np.full((8, 5), 0.1), np.array([0, 0, 0, 1, 1, 1, 2, 2])),
    "all features zero": lambda: sample_of(np.zeros((8, 5)), np.array([0, 0, 0, 1, 1, 1, 2, 2])),
    "one dimension": lambda: _odd(12, 1),
    "more dimensions than images": lambda: _odd(9, 40),
    "a class with one image": lambda: _odd(12, 4, [0] * 11 + [1]),
    "three images": lambda: _odd(3, 4, [0, 0, 1]),
    "every image a class": lambda: _odd(6, 4, list(range(6))),
    "hundreds of classes of two images": lambda: _odd(400, 4, [image // 2 for image in range(400)]),
    "every image twice": _duplicates,
    "dimensions without variation, an image of zeros": _dead,
    "features near the smallest numbers": lambda: _scaled(1e-200),
    "features near the largest numbers": lambda: _scaled(1e200),
}
"""Input that real data sets and models produce now and then."""
