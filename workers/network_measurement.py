"""What a forecast of fine-tuning needs of a model, measured once and kept.

Legend: E evaluated images, N of them whose gradients are measured, D features, Q directions, P probes.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import EvaluationFailed
from app.domain.finetuning import Recipe
from app.forecasting.head_basis import head_basis_DQ
from app.forecasting.linearisation import linearise
from app.forecasting.measured_network import MeasuredNetwork, StepTime
from app.forecasting.training import Training
from app.ingest.shard import read_labels
from workers.extract.gradients import GradientSketches, gradient_sketches, random_probes
from workers.extract.reuse import features_of
from workers.feature_cache import CacheKey, load_measured, store_measured
from workers.finetune.split import split_images
from workers.finetune.step_time import measure_step
from workers.lease import HeldLease
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
        EvaluationFailed: as ``gradient_sketches``, ``linearise`` and ``measure_step`` say.
    """
    name = subject.key.linearisation(subject.runtime.settings.forecast_images)
    kept = load_measured(subject.runtime.objects, name)
    if kept is not None:
        return name, kept
    measured = _measure(subject, features_of(subject, earlier).features_ND)
    store_measured(subject.runtime.objects, name, measured)
    return name, measured


def _measure(subject: Subject, features_ED: NDArray[np.float32]) -> MeasuredNetwork:
    images, held, network = subject.evaluated, subject.held, subject.network
    classes_C = np.unique(images.labels_E)
    classes = len(classes_C)
    wanted = max(subject.runtime.settings.forecast_images, _IMAGES_PER_CLASS * classes)
    chosen = subject.chosen(min(wanted, subject.key.max_images))
    features_ND = features_ED[np.searchsorted(images.rows_E, chosen.rows_E)]
    labels_N = np.searchsorted(classes_C, chosen.labels_E)
    basis_DQ = _basis(features_ND, labels_N)
    held.report("linearising", 0, len(labels_N))
    is_class = len(labels_N) * basis_DQ.shape[1] <= _MOST_OUTPUTS
    directions = basis_DQ.shape[1]
    directions_DP = basis_DQ if is_class else basis_DQ @ random_probes(directions, _TRACE_PROBES)
    sketches = gradient_sketches(
        network,
        subject.decoded(chosen.rows_E.tolist()),
        directions_DP,
        batch_size=subject.runtime.settings.batch_size,
        on_progress=lambda done: held.report("linearising", done, len(labels_N)),
        should_stop=held.should_stop,
    )
    held.report("timing", 0, len(_BATCH_SIZES))
    further_E = np.setdiff1d(np.arange(len(images.rows_E)), np.searchsorted(images.rows_E, chosen.rows_E))[:_FURTHER]
    return MeasuredNetwork(
        features_ND=np.concatenate([features_ND, features_ED[further_E]]).astype(np.float32),
        labels_N=np.concatenate([labels_N, np.searchsorted(classes_C, images.labels_E[further_E])]).astype(np.int64),
        basis_DQ=basis_DQ.astype(np.float32),
        kernel=(sketches.cross_kernel() if is_class else _trace(sketches)).astype(np.float32),
        kind="class" if is_class else "trace",
        train_images=_train_images(subject.shard),
        architecture=subject.spec.architecture,
        device=str(network.device),
        step_times=_step_times(network, classes, held),
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
    for done, size in enumerate(_BATCH_SIZES):
        step = measure_step(network, classes, Recipe(batch_size=size), should_stop=held.should_stop)
        times.append(StepTime(size, step.seconds, step.low, step.high))
        held.report("timing", done + 1, len(_BATCH_SIZES))
    return tuple(times)
