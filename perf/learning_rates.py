"""The predicted largest learning rate against real training: with half of it, with twice, and with eight times of it.

For every packaged network and data set of ``perf.finetuning``: the largest rate at which the forecast is stable and
features do not leap, then real trainings of some steps at multiples of it. A training has learned if its loss on all
images came below half of its start, and lost its way if the loss ended above its start, or overflowed. One JSON file a
case in .cache/learning-rates, so the run can be stopped and started again; the table is printed at the end.

    OMP_NUM_THREADS=1 python -m perf.learning_rates
"""

import argparse
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from app.domain.finetuning import Recipe
from app.forecasting import bilinear
from app.forecasting.forecast import LONG_LEAP
from app.forecasting.kernel_extension import extended
from app.forecasting.linearisation import Linearisation
from app.forecasting.stability import learning_rate_limit
from app.forecasting.training import Training
from perf.finetuning import CHEAPEST_FIRST, DATA_SETS, Case, build
from perf.forecast import measured
from workers.finetune.evaluation import evaluate
from workers.finetune.training import Training as RealTraining

CACHE = Path(".cache/learning-rates")
MULTIPLES = (0.5, 2.0, 8.0)
STEPS, LOOK_EVERY = 60, 10


def limit(network: Linearisation, training: Training) -> tuple[float, float]:
    """Return the largest stable rate, and the largest at which features do not leap either, to a hundredth."""
    stable = learning_rate_limit(network, training).certain
    low, high = stable / 1000, stable
    if _leap(network, training, high) <= LONG_LEAP:
        return stable, stable
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _leap(network, training, middle) <= LONG_LEAP else (low, middle)
    return stable, low


def _leap(network: Linearisation, training: Training, rate: float) -> float:
    found = bilinear.simulate(network, replace(training, learning_rate=rate))
    return math.inf if found.diverged else found.leap


def trained(case: Case, rate: float) -> dict[str, Any]:
    """Return the losses of all images on the way of a real training."""
    built = build(case)
    recipe = replace(case.recipe, learning_rates=(rate,), max_steps=STEPS)
    training = RealTraining(built.network, built.store, built.images_N, built.labels_N, recipe, rate)
    losses = [evaluate(built.network, built.store, built.images_N, built.labels_N, recipe.loss).loss]
    for until in range(LOOK_EVERY, STEPS + 1, LOOK_EVERY):
        training.run(until)
        if training.verdict == "diverged":
            losses.append(math.inf)
            break
        losses.append(evaluate(built.network, built.store, built.images_N, built.labels_N, recipe.loss).loss)
        if losses[-1] < losses[0] / 2:
            break
    return {"rate": rate, "losses": [loss if math.isfinite(loss) else None for loss in losses]}


def outcome(losses: list[float | None]) -> str:
    """Return what became of a training."""
    if losses[-1] is None or losses[-1] >= 0.95 * losses[0]:  # type: ignore[operator]
        return "lost"
    return "learned" if losses[-1] < losses[0] / 2 else "slow"  # type: ignore[operator]


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    CACHE.mkdir(parents=True, exist_ok=True)
    counts: dict[float, Counter[str]] = {multiple: Counter() for multiple in MULTIPLES}
    print("| model | data set | stable | without leaps | half | twice | eight times |\n|---|---|--:|--:|---|---|---|")
    for data_set in list(DATA_SETS)[:3]:
        for model in CHEAPEST_FIRST:
            case = Case(model, data_set, 0.001, 32, 0.9)
            file = CACHE / f"{model}--{data_set}.json"
            if not file.is_file():
                with threadpool_limits(1):
                    network, _ = measured(case, options.images)
                    training = Training.from_recipe(
                        Recipe(epochs=20, schedule="constant"), learning_rate=0.001, images=network.train_images
                    )
                    stable, calm = limit(extended(network.linearisation()), training)
                runs = [trained(case, multiple * calm) for multiple in MULTIPLES]
                file.write_text(json.dumps({"stable": stable, "calm": calm, "runs": runs}))
            found = json.loads(file.read_text())
            told = [outcome(run["losses"]) for run in found["runs"]]
            for multiple, said in zip(MULTIPLES, told, strict=True):
                counts[multiple][said] += 1
            print(
                f"| {model} | {data_set} | {found['stable']:.2g} | {found['calm']:.2g} | {' | '.join(told)} |",
                flush=True,
            )
    for multiple, counted in counts.items():
        print(f"{multiple:g} times: {dict(counted)}")
    print(f"Median of the rates: {np.median([json.loads(f.read_text())['calm'] for f in CACHE.glob('*.json')]):.2g}")


if __name__ == "__main__":
    main()
