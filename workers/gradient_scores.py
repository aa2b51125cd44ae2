"""Scores of a model's gradients on a class-balanced subset of the evaluated images.

Legend: E evaluated images, G of them whose gradients are computed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import EvaluationFailed
from app.domain.model_spec import ModelSpec
from app.scoring import Panel, Score
from workers.extract.kernels import kernels_of
from workers.feature_cache import CacheKey
from workers.images import EvaluatedImages, choose_images
from workers.lease import HeldLease
from workers.runtime import Runtime
from workers.stored_score import failed, measured

_MORE_MEMORY = "out_of_memory"


def gradient_scores(
    runtime: Runtime,
    spec: ModelSpec,
    shard: Path,
    scores: Sequence[Score],
    images: EvaluatedImages,
    units_E: NDArray[np.int64],
    key: CacheKey,
    held: HeldLease,
) -> dict[str, dict[str, Any]]:
    """Return scores as they are stored; the network runs backwards only where its kernels were not kept.

    A model whose gradients cannot be computed has a refusal in place of each score, and its other scores.

    Args:
        runtime: of this worker.
        spec: of the model.
        shard: the data set.
        scores: that need gradients; none is possible.
        images: that the other scores are of.
        units_E: near-duplicates among them.
        key: of the other scores.
        held: told of the progress, and asked whether to stop.

    Raises:
        Interrupted: the worker is to stop.
        EvaluationFailed: ``out_of_memory``: another attempt, or another worker, may have more.
    """
    if not scores:
        return {}
    classes = len(np.unique(images.labels_E))
    subset = CacheKey(
        key.dataset_digest,
        key.model_digest,
        min(max(runtime.settings.gradient_images, 2 * classes), key.max_images),
    )
    chosen = choose_images(shard, subset.max_images)
    try:
        kernels = kernels_of(runtime, spec, shard, chosen, subset, held)
    except EvaluationFailed as error:
        if error.code == _MORE_MEMORY:
            raise
        return {score.name: failed(error) for score in scores}
    places_G = np.searchsorted(images.rows_E, chosen.rows_E)
    # These scores read no features.
    no_features_G1 = np.zeros((len(places_G), 1))
    panel = Panel(no_features_G1, chosen.labels_E, gradients=kernels, units=units_E[places_G])
    return {score.name: measured(score, panel) for score in scores}
