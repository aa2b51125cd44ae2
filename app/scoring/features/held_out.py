"""Which images a score that predicts them can judge.

Legend: N images.
"""

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import EvaluationFailed
from app.scoring.panel import Panel


def held_out(panel: Panel) -> NDArray[np.bool_]:
    """Return the images that are not alone in their class: only these can be predicted from others.

    Raises:
        EvaluationFailed: ``no_held_out_images``: no class has two images.
    """
    held_out_N = panel.counts_C[panel.labels_N] > 1
    if not held_out_N.any():
        raise EvaluationFailed(
            "no_held_out_images",
            f"Each of the {panel.num_classes} classes has a single image, so no prediction can be checked.",
            param="labels",
            hint="Upload at least two images for some of the classes.",
        )
    return np.asarray(held_out_N)
