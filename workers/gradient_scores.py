"""Scores of a model's gradients on a class-balanced subset of the evaluated images.

Legend: E evaluated images, G of them whose gradients are computed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import EvaluationFailed
from app.scoring import Panel, Score
from workers.extract.kernels import kernels_of
from workers.stored_score import failed, measured
from workers.subject import Subject

_MORE_MEMORY = "out_of_memory"
_IMAGES_PER_CLASS = 2


def gradient_scores(
    subject: Subject, scores: Sequence[Score], features_ED: NDArray[np.float32], units_E: NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """Return scores as they are stored; the network runs backwards only where its kernels were not kept.

    A model whose gradients cannot be computed has a refusal in place of each score, and its other scores.

    Args:
        subject: the model and the data set.
        scores: that need gradients; none is possible.
        features_ED: of the evaluated images.
        units_E: near-duplicates among the evaluated images.

    Raises:
        Interrupted: the worker is to stop.
        EvaluationFailed: ``out_of_memory``: another attempt, or another worker, may have more.
    """
    if not scores:
        return {}
    images = subject.evaluated
    wanted = max(subject.runtime.settings.gradient_images, _IMAGES_PER_CLASS * len(np.unique(images.labels_E)))
    chosen = subject.chosen(min(wanted, subject.key.max_images))
    places_G = np.searchsorted(images.rows_E, chosen.rows_E)
    try:
        kernels = kernels_of(subject, chosen.rows_E, features_ED[places_G], chosen.labels_E)
    except EvaluationFailed as error:
        if error.code == _MORE_MEMORY:
            raise
        return {score.name: failed(error) for score in scores}
    # These scores read no features.
    no_features_G1 = np.zeros((len(places_G), 1))
    panel = Panel(no_features_G1, chosen.labels_E, gradients=kernels, units=units_E[places_G])
    return {score.name: measured(score, panel) for score in scores}
