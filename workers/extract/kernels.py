"""Kernels of a model's gradients on a subset of a data set's images: those that are kept are taken.

Legend: G images of the subset.
"""

from pathlib import Path

from app.domain.model_spec import ModelSpec
from app.ingest.shard import iter_images
from app.scoring.gradient_kernels import GradientKernels
from workers.extract.gradients import gradient_sketches, random_probes
from workers.feature_cache import CacheKey, load_kernels, store_kernels
from workers.images import EvaluatedImages
from workers.lease import HeldLease
from workers.runtime import Runtime
from workers.zoo.network import load_network
from workers.zoo.sources import cached_weights

PROBES = 4
"""Random directions of the features: two draws of one differ by 6 %, more than a sketch and its gradient do."""


def kernels_of(
    runtime: Runtime, spec: ModelSpec, shard: Path, images: EvaluatedImages, key: CacheKey, held: HeldLease
) -> GradientKernels:
    """Return the kernels of a few images, and keep them under ``key``.

    Args:
        runtime: of this worker.
        spec: of the model.
        shard: the data set.
        images: those that ``choose_images`` gives for ``key``.
        key: names the kernels.
        held: told of the progress, and asked whether to stop.

    Raises:
        Interrupted: the worker is to stop.
        EvaluationFailed: as ``gradient_sketches`` says.
    """
    kept = load_kernels(runtime.objects, key)
    if kept is not None:
        return kept
    total = len(images.rows_E)
    held.report("gradients", 0, total)
    network = load_network(spec, cached_weights(spec.source, runtime.settings.weights), runtime.device)
    sketches = gradient_sketches(
        network,
        iter_images(shard, images.rows_E.tolist()),
        random_probes(network.feature_dim, PROBES),
        batch_size=runtime.settings.batch_size,
        on_progress=lambda done: held.report("gradients", done, total),
        should_stop=held.should_stop,
    )
    kernels = sketches.kernels()
    store_kernels(runtime.objects, key, kernels)
    return kernels
