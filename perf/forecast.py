"""Forecasts of fine-tuning against the real one: steps until the loss is a half, a quarter, ... of its start.

Reads the trainings of ``python -m perf.finetuning``; measures each network once, as a worker does: gradients on a
class-balanced subset of the images, features of all; and keeps that in .cache/measured. Nothing of a training is known
to its forecast but the hyperparameters; it is calibrated by trainings of other architecture families alone. Beside it
two cheap rivals: the median of the trainings of other families at the same settings, and the first ten real steps,
extrapolated.

    python -m perf.forecast [--images 100] [--save app/forecasting/calibration_points.json]
"""

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from app.forecasting.calibration import Calibration, CalibrationPoint, save
from app.forecasting.forecast import forecast
from app.forecasting.measured_network import MeasuredNetwork
from app.forecasting.target import Target
from app.forecasting.training import Training
from perf.finetuning import CACHE, DATA_SETS, Built, Case, build
from workers.extract.features import extract
from workers.network_measurement import measure
from workers.zoo.network import load_network
from workers.zoo.sources import cached_weights

MEASURED = Path(".cache/measured")
LEVELS = (0.5, 0.25, 0.1, 0.05)
FIRST_STEPS = 10
LEAST_STEPS = 5  # a time of fewer steps is a whole number that no relative error says much about


@dataclass(frozen=True, eq=False)
class Truth:
    """One real training: the loss of all images at some steps."""

    case: Case
    steps_K: np.ndarray
    losses_K: np.ndarray
    batch_losses: list[float]
    seconds_per_step: float
    stopped: str

    def steps_to(self, eps: float) -> float | None:
        """Return the step at which the loss first is this share of the first one, between evaluations linearly."""
        level = eps * self.losses_K[0]
        below = np.flatnonzero(self.losses_K <= level)
        if not len(below):
            return None
        after = int(below[0])
        before = after - 1
        share = (self.losses_K[before] - level) / (self.losses_K[before] - self.losses_K[after])
        return float(self.steps_K[before] + share * (self.steps_K[after] - self.steps_K[before]))


def truths() -> list[Truth]:
    """Return every training that was recorded."""
    found = []
    for file in sorted(CACHE.glob("*.json")):
        data = json.loads(file.read_text())
        found.append(
            Truth(
                Case(**data["case"]),
                np.array(data["steps"]),
                np.array(data["losses"]),
                data["batch_losses"],
                data.get("processor_seconds_per_step", math.nan),
                data["stopped"],
            )
        )
    return found


def balanced(labels_N: np.ndarray, images: int) -> np.ndarray:
    """Return the first images of each class, as many of each, ascending."""
    if images >= len(labels_N):
        return np.arange(len(labels_N))
    place_N = np.zeros(len(labels_N), dtype=int)
    for label in np.unique(labels_N):
        members = np.flatnonzero(labels_N == label)
        place_N[members] = np.arange(len(members))
    return np.sort(np.argsort(place_N, kind="stable")[:images])


def measured(case: Case, images: int) -> tuple[MeasuredNetwork, float]:
    """Return what a worker would measure, and the processor time it took."""
    file = MEASURED / f"{case.model}--{case.data_set}-{images}-all.npz"
    if not file.is_file():
        MEASURED.mkdir(parents=True, exist_ok=True)
        network, seconds = _measure(build(case), case, images)
        with file.open("wb") as out:
            network.save(out)
        file.with_suffix(".seconds").write_text(str(seconds))
    return MeasuredNetwork.load(file.read_bytes()), float(file.with_suffix(".seconds").read_text())


def _measure(built: Built, case: Case, images: int) -> tuple[MeasuredNetwork, float]:
    make, per_class = DATA_SETS[case.data_set]
    pictures, _ = make(per_class)
    measured_first = balanced(built.labels_N, images)
    chosen = np.concatenate([measured_first, np.setdiff1d(np.arange(len(built.labels_N)), measured_first)])
    network = load_network(built.spec, cached_weights(built.spec.source, Path(".cache/weights")))
    started = time.process_time()
    found = measure(
        network,
        extract(network, [pictures[row] for row in chosen], batch_size=32).features_ND,
        built.labels_N[chosen],
        [pictures[row] for row in measured_first],
        len(measured_first),
        train_images=len(built.labels_N),
        architecture=built.spec.architecture,
        batch_size=32,
    )
    return found, time.process_time() - started


@dataclass(frozen=True, eq=False)
class Point:
    """One training and one level: real and forecast steps."""

    truth: Truth
    family: str
    architecture: str
    eps: float
    real: float
    raw: float | None
    verdict: str
    calm: bool
    seconds: float


def points(images: int, method: str) -> Iterator[Point]:
    """Yield every level that a training reached, with the forecast that nothing is calibrated in."""
    for truth in truths():
        network, measuring = measured(truth.case, images)
        linearisation = network.linearisation()
        recipe = truth.case.recipe
        training = Training.from_recipe(recipe, learning_rate=truth.case.learning_rate, images=network.train_images)
        horizon = replace(training, steps=max(40, min(800, int(2.5 * truth.steps_K[-1]))))
        for eps in LEVELS:
            real = truth.steps_to(eps)
            if real is None or real < LEAST_STEPS:
                continue
            started = time.process_time()
            found = forecast(linearisation, horizon, Target(value=eps), None, method=method, seeds=3)  # type: ignore[arg-type]
            yield Point(
                truth,
                network.family,
                network.architecture,
                eps,
                real,
                found.steps,
                found.verdict,
                found.calm,
                measuring + time.process_time() - started,
            )


def errors(found: list[Point]) -> list[tuple[Point, float, float | None]]:
    """Return (point, calibrated / real steps, factor of the interval) by calibrations of other families."""
    rows = rows_of(found)
    result = []
    for one in found:
        if one.raw is None:
            continue
        calibration = Calibration.fit(rows, loss=one.truth.case.loss, without_family=one.family)  # type: ignore[arg-type]
        steps = one.raw / float(calibration.ratio(np.array([one.eps]))[0])
        result.append((one, steps / one.real, calibration.factor(one.eps)))
    return result


def extrapolated(truth: Truth, eps: float) -> float | None:
    """Return the step at which a line through the logarithm of the first ten batch losses gets to a level."""
    losses = np.array(truth.batch_losses[:FIRST_STEPS])
    slope, start = np.polyfit(np.arange(len(losses)), np.log(np.maximum(losses, 1e-9)), 1)
    steps = (math.log(eps * truth.losses_K[0]) - start) / slope if slope < 0 else math.inf
    return float(steps) if 0 < steps < math.inf else None


def of_others(point: Point, found: list[Point]) -> float | None:
    """Return the median real steps of other families at the same settings and level."""
    same = [
        one.real
        for one in found
        if one.family != point.family and one.eps == point.eps and setting(one.truth.case) == setting(point.truth.case)
    ]
    return float(np.median(same)) if same else None


def setting(case: Case) -> tuple[Any, ...]:
    """Return what a case has in common with the same training of another model and data set."""
    return case.learning_rate, case.batch_size, case.momentum, case.loss


def group(point: Point) -> tuple[str, str]:
    """Return the training's setting, and the model's family."""
    case = point.truth.case
    return f"{case.learning_rate:g}, {case.batch_size}, {case.momentum:g}", point.family


def summary(ratios: list[float]) -> str:
    """Return median and 90th percentile of the relative errors."""
    relative = np.abs(np.array(ratios) - 1)
    return f"{np.median(relative):.0%} / {np.quantile(relative, 0.9):.0%}" if len(relative) else "–"


def table(found: list[Point]) -> Iterator[str]:
    """Yield the lines of a table of relative errors, level by level; the last row is of all."""
    calibrated = errors(found)
    yield "| steps to | levels | uncalibrated | calibrated | in the 80 % interval | other models | first 10 steps |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for eps in (*LEVELS, None):
        at = [row for row in calibrated if eps in (None, row[0].eps)]
        inside = [abs(math.log(ratio)) <= math.log(factor) for _, ratio, factor in at if factor]
        others = [value / one.real for one, _, _ in at if (value := of_others(one, found))]
        first = [value / one.real for one, _, _ in at if (value := extrapolated(one.truth, one.eps))]
        yield (
            f"| {eps or 'all'} | {len(at)} | {summary([(one.raw or 0) / one.real for one, _, _ in at])} "
            f"| {summary([ratio for _, ratio, _ in at])} "
            f"| {format(np.mean(inside), '.0%') if inside else '–'} | {summary(others)} | {summary(first)} |"
        )
    yield "\n| learning rate, batch size, momentum | family | trainings | uncalibrated | calibrated |"
    yield "|---|---|--:|--:|--:|"
    for key in sorted({group(row[0]) for row in calibrated}):
        at = [row for row in calibrated if group(row[0]) == key]
        trainings = len({row[0].truth.case.file.name for row in at})
        raw, corrected = summary([(one.raw or 0) / one.real for one, _, _ in at]), summary([row[1] for row in at])
        yield "| " + " | ".join([*key, str(trainings), raw, corrected]) + " |"
    yield "\nFarthest from the truth, calibrated:"
    for one, ratio, _ in sorted(calibrated, key=lambda row: -abs(math.log(row[1])))[:8]:
        yield f"- {one.truth.case.file.stem} to {one.eps}: {ratio:.2f} times the real {one.real:.0f}"


def cost_in_steps(found: list[Point]) -> float:
    """Return how many training steps take as much processor time as measuring and simulating, the median."""
    steps = {
        one.truth.case.file.name: one.seconds / one.truth.seconds_per_step
        for one in found
        if math.isfinite(one.truth.seconds_per_step)
    }
    return float(np.median(list(steps.values())))


def rows_of(found: list[Point]) -> list[CalibrationPoint]:
    """Return what a calibration rests on: levels that were forecast, of trainings for which the linear model holds."""
    return [
        CalibrationPoint(
            architecture=one.architecture,
            family=one.family,
            eps=one.eps,
            predicted_steps=round(one.raw, 2),
            real_steps=round(one.real, 2),
            loss=one.truth.case.loss,  # type: ignore[arg-type]
        )
        for one in found
        if one.raw is not None and one.calm
    ]


def main() -> None:
    """Print the tables; save the calibration points if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--method", default="bilinear")
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    with threadpool_limits(1):
        found = list(points(options.images, options.method))
    for loss in ("cross_entropy", "squared"):
        of_loss = [one for one in found if one.truth.case.loss == loss]
        for name, chosen in (
            ("the linear model holds", [one for one in of_loss if one.calm]),
            ("features leap", [one for one in of_loss if not one.calm and one.raw is not None]),
        ):
            if chosen:
                trainings = len({one.truth.case.file.name for one in chosen})
                print(f"\n## {loss}, {name}: {trainings} trainings, {len(chosen)} levels\n")
                print("\n".join(table(chosen)))
        given_none = [one for one in of_loss if one.raw is None]
        if given_none:
            verdicts = Counter(one.verdict for one in given_none)
            print(f"\nNo number given: {len(given_none)} levels ({dict(verdicts)}).")
        if of_loss:
            steps = cost_in_steps(of_loss)
            print(f"\nA forecast takes the processor time of {steps:.0f} training steps, the median.")
            print(f"It is 45 times below that of trainings of {45 * steps:.0f} steps and more.")
    if options.save:
        lines = ",\n".join(f" {json.dumps(row)}" for row in save(rows_of(found)))
        options.save.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
