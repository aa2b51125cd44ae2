"""Kernels of a model's gradients on a subset of a data set's images: those that are kept are taken.

Legend: G images.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from app.scoring.gradient_kernels import GradientKernels
from workers.extract.gradients import gradient_sketches, largest_part, random_probes
from workers.extract.ridge_head import ridge_head_DP
from workers.feature_cache import load_kernels, store_kernels
from workers.metrics import look_up
from workers.subject import Subject

PROBES = 4
"""Directions of the features: two random draws of one differ by 6 %, more than a sketch and its gradient do."""


def kernels_of(
    subject: Subject, rows_G: NDArray[np.intp], features_GD: NDArray[np.float32], labels_G: NDArray[np.int64]
) -> GradientKernels:
    """Return the kernels of a few images, and keep them.

    Args:
        subject: the model and the data set.
        rows_G: the images, which follow from the data set and the settings.
        features_GD: theirs.
        labels_G: their classes.

    Raises:
        Interrupted: the worker is to stop.
        EvaluationFailed: as ``gradient_sketches`` says.
    """
    runtime, held, settings = subject.runtime, subject.held, subject.runtime.settings
    name = subject.key.kernels
    kept = load_kernels(runtime.objects, name)
    look_up("gradients", hit=kept is not None)
    if kept is not None:
        return kept
    total, is_drawn = len(rows_G), settings.gradient_scalars == "random"
    held.report("gradients", 0, total)
    network = subject.network
    with runtime.stage("gradients"):
        sketches = gradient_sketches(
            network,
            subject.files(rows_G.tolist()),
            random_probes(features_GD.shape[1], PROBES) if is_drawn else ridge_head_DP(features_GD, labels_G, PROBES),
            batch_size=settings.batch_size,
            scope=settings.gradient_scope,
            part_size=subject.part_size("gradients", largest_part(settings.batch_size)),
            decode_threads=runtime.decode_threads,
            on_progress=runtime.counting(lambda done: held.report("gradients", done, total)),
            should_stop=held.should_stop,
        )
        kernels = dataclasses.replace(sketches.kernels(), drawn=is_drawn)
    subject.ran.add("gradients")
    store_kernels(runtime.objects, name, kernels)
    return kernels
