"""What a forecast of fine-tuning needs of a model, measured once and kept.

Legend: M images, the first N of them those whose gradients are measured, D features, Q directions, P probes.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.domain.errors import EvaluationFailed
from app.domain.finetuning import Recipe
from app.forecasting.head_basis import head_basis_DQ
from app.forecasting.linearisation import linearise
from app.forecasting.measured_network import MeasuredNetwork, StepTime
from app.forecasting.question import MOST_CLASSES
from app.forecasting.training import Training
from app.ingest.shard import read_labels
from workers.extract.gradients import GradientSketches, gradient_sketches, largest_part, random_probes
from workers.extract.part_size import PartSize
from workers.extract.reuse import features_of
from workers.feature_cache import CacheKey, load_measured, store_measured
from workers.finetune.split import split_images
from workers.finetune.step_time import measure_step
from workers.lease import HeldLease
from workers.metrics import look_up
from workers.subject import Subject
from workers.zoo.network import Network

_MOST_OUTPUTS = 2048  # N Q up to which the kernel of all directions is kept: 16 MB, a second of simulation
_TRACE_PROBES = 8
_BATCH_SIZES = (8, 32)
_IMAGES_PER_CLASS = 4
_FURTHER = 2000  # images whose features alone are kept, and whose gradients forecasts fill in


def measured_network(subject: Subject, earlier: tuple[CacheKey, ...]) -> tuple[str, MeasuredNetwork]:
    """Return the object's name and what it holds; data set and network are looked at only where nothing was kept.

    Args:
        subject: the model and the data set.
        earlier: keys of subsets of the evaluated images whose features may be known.

    Raises:
        Interrupted: the worker is to stop.
        EvaluationFailed: ``too_many_classes``; as ``gradient_sketches``, ``linearise`` and ``measure_step`` say.
    """
    name = subject.key.linearisation(subject.runtime.settings.forecast_images)
    kept = load_measured(subject.runtime.objects, name)
    look_up("forecast", hit=kept is not None)
    if kept is not None:
        return name, kept
    images, held = subject.evaluated, subject.held
    classes_C = np.unique(images.labels_E)
    if len(classes_C) > MOST_CLASSES:
        raise EvaluationFailed(
            "too_many_classes",
            f"Fine-tuning is forecast for at most {MOST_CLASSES} classes; the data set has {len(classes_C)}.",
            param="dataset",
            hint="Ask for a fine-tune, which measures the time of a step and trains for real.",
        )
    features_ED = features_of(subject, earlier).features_ND
    name = subject.key.linearisation(subject.runtime.settings.forecast_images)  # now that their precision is settled
    most = subject.key.max_images
    wanted = max(subject.runtime.settings.forecast_images, _IMAGES_PER_CLASS * len(classes_C))
    # Both are balanced over classes, and the second holds the first.
    rows_N, rows_M = subject.chosen(min(wanted, most)).rows_E, subject.chosen(min(wanted + _FURTHER, most)).rows_E
    places_M = np.searchsorted(images.rows_E, np.concatenate([rows_N, np.setdiff1d(rows_M, rows_N)]))
    network = subject.network
    with subject.runtime.stage("linearise"):
        measured = measure(
            network,
            features_ED[places_M],
            np.searchsorted(classes_C, images.labels_E[places_M]),
            subject.decoded(rows_N.tolist()),
            len(rows_N),
            train_images=_train_images(subject.shard),
            architecture=subject.spec.architecture,
            batch_size=subject.runtime.settings.batch_size,
            part_size=subject.part_size("linearisation", largest_part(subject.runtime.settings.batch_size)),
            on_progress=subject.runtime.counting(lambda done: held.report("linearising", done, len(rows_N))),
            should_stop=held.should_stop,
            step_times=lambda: _step_times(network, len(classes_C), held),
        )
    subject.ran.add("forecast")
    store_measured(subject.runtime.objects, name, measured)
    return name, measured


def measure(
    network: Network,
    features_MD: NDArray[np.float32],
    labels_M: NDArray[np.intp],
    images: Iterable[Image.Image],
    count: int,
    *,
    train_images: int,
    architecture: str,
    batch_size: int,
    part_size: PartSize | None = None,
    on_progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    step_times: Callable[[], tuple[StepTime, ...]] = tuple,
) -> MeasuredNetwork:
    """Measure the gradients of a network along the directions that a new classifier will use.

    Args:
        network: the model.
        features_MD: of all images.
        labels_M: their classes, 0 to C - 1.
        images: the first N of them.
        count: N.
        train_images: of the training that is to be forecast.
        architecture: of the model.
        batch_size: images a batch.
        part_size: what is known of the parts that the network takes, and will be.
        on_progress: called with the number of images done.
        should_stop: asked between batches.
        step_times: times some training steps; called last.

    Raises:
        Interrupted: ``should_stop`` said so.
        EvaluationFailed: as ``gradient_sketches`` and ``linearise`` say.
    """
    basis_DQ = _basis(features_MD[:count], labels_M[:count])
    directions = basis_DQ.shape[1]
    is_class = count * directions <= _MOST_OUTPUTS
    directions_DP = basis_DQ if is_class else basis_DQ @ random_probes(directions, _TRACE_PROBES)
    if on_progress is not None:
        on_progress(0)
    sketches = gradient_sketches(
        network,
        images,
        directions_DP,
        batch_size=batch_size,
        part_size=part_size,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    return MeasuredNetwork(
        features_ND=features_MD.astype(np.float32),
        labels_N=labels_M.astype(np.int64),
        basis_DQ=basis_DQ.astype(np.float32),
        kernel=(sketches.cross_kernel() if is_class else _trace(sketches)).astype(np.float32),
        kind="class" if is_class else "trace",
        train_images=train_images,
        architecture=architecture,
        device=str(network.device),
        step_times=step_times(),
    )


def _basis(features_ND: NDArray[np.float32], labels_N: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the directions along which a linear head will pull, found with the usual recipe."""
    recipe = Recipe()
    training = Training.from_recipe(recipe, learning_rate=recipe.learning_rates[0], images=len(labels_N))
    return head_basis_DQ(linearise(features_ND, labels_N), training)


def _trace(sketches: GradientSketches) -> NDArray[np.float64]:
    """Return the uncentred kernel, averaged over the probes."""
    kernels = sketches.kernels()
    towards_N, square = kernels.towards_mean_PN.mean(axis=0), float(kernels.mean_square_P.mean())
    return np.asarray(kernels.centred_PNN.mean(axis=0) + towards_N + towards_N[:, None] + square)


def _train_images(shard: Path) -> int:
    """Return how many images a fine-tuning of the data set trains on."""
    labels_N, _, splits = read_labels(shard)
    try:
        return len(split_images(labels_N, split_names=splits).train_T)
    except EvaluationFailed:  # too few to hold any out: the user's own training has them all
        return len(labels_N)


def _step_times(network: Network, classes: int, held: HeldLease) -> tuple[StepTime, ...]:
    times = []
    held.report("timing", 0, len(_BATCH_SIZES))
    for done, size in enumerate(_BATCH_SIZES):
        step = measure_step(network, classes, Recipe(batch_size=size), should_stop=held.should_stop)
        times.append(StepTime(size, step.seconds, step.low, step.high))
        held.report("timing", done + 1, len(_BATCH_SIZES))
    return tuple(times)
