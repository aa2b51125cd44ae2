"""Kernels of a model's gradients on a subset of a data set's images: those that are kept are taken.

Legend: G images.
"""

import numpy as np
from numpy.typing import NDArray

from app.scoring.gradient_kernels import GradientKernels
from workers.extract.gradients import gradient_sketches, random_probes
from workers.feature_cache import load_kernels, store_kernels
from workers.subject import Subject

PROBES = 4
"""Random directions of the features: two draws of one differ by 6 %, more than a sketch and its gradient do."""


def kernels_of(subject: Subject, rows_G: NDArray[np.intp]) -> GradientKernels:
    """Return the kernels of a few images, and keep them.

    Args:
        subject: the model and the data set.
        rows_G: the images, which follow from the data set and the settings.

    Raises:
        Interrupted: the worker is to stop.
        EvaluationFailed: as ``gradient_sketches`` says.
    """
    runtime, held = subject.runtime, subject.held
    name = subject.key.kernels(runtime.settings.gradient_images)
    kept = load_kernels(runtime.objects, name)
    if kept is not None:
        return kept
    total = len(rows_G)
    held.report("gradients", 0, total)
    sketches = gradient_sketches(
        subject.network,
        subject.decoded(rows_G.tolist()),
        random_probes(subject.network.feature_dim, PROBES),
        batch_size=runtime.settings.batch_size,
        on_progress=lambda done: held.report("gradients", done, total),
        should_stop=held.should_stop,
    )
    kernels = sketches.kernels()
    store_kernels(runtime.objects, name, kernels)
    return kernels
