"""The feature directions in which a head will pull the backbone: where gradients are worth measuring.

Legend: N images, D feature dimensions, Q directions, C classes, H heads.

The backbone is moved through W q alone, so directions outside the row space of the head do not matter. That head is
not known before training, but a linear probe's, on the same images, comes close and costs next to nothing: the
directions are the first right singular vectors of the head at the start and of the probe's after a tenth, a third and
all of the steps, each head scaled to the same size.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from app.forecasting.batch_order import batches_SB
from app.forecasting.bilinear import Trajectory
from app.forecasting.linearisation import Linearisation
from app.forecasting.stability import learning_rate_limit
from app.forecasting.training import Training

_Array = NDArray[np.float64]
_ZERO = 1e-6  # of the largest singular value


def head_basis_DQ(linearisation: Linearisation, training: Training, directions: int | None = None) -> _Array:
    """Return orthonormal directions as columns, the most used first.

    Args:
        linearisation: features, labels and head; kernels are not looked at.
        training: that shall be forecast; a learning rate at which the probe overshoots is lowered.
        directions: how many at most; None: C for a head that starts at zero, 2 C for another. There are fewer where the
            heads span fewer: the rows of a cross-entropy head that starts at zero sum to zero, so C - 1 are all.
    """
    probe = linearisation.without_backbone()
    classes = probe.num_classes
    wanted = directions or (classes if probe.zero_head else 2 * classes)
    rate = min(training.learning_rate, learning_rate_limit(probe, training).certain / 2)
    training = dataclasses.replace(training, learning_rate=rate)
    looked_at = {max(1, training.steps // 10), max(1, training.steps // 3), training.steps}
    trajectory = Trajectory(probe, training, seeds=1)
    heads = [probe.head_CD]
    batches = batches_SB(probe.num_images, training.batch_size, training.steps, [0])
    for number, batch_SB in enumerate(batches):
        trajectory.step(number, batch_SB)
        if number + 1 in looked_at:
            heads.append(trajectory.coordinates.weight_CD(trajectory.head_SCR[0]))
    rows_HD = np.vstack([head / np.linalg.norm(head) for head in heads if head.any()])
    _, size_K, rows_KD = np.linalg.svd(rows_HD, full_matrices=False)
    kept = min(wanted, int((size_K > _ZERO * size_K[0]).sum()))
    return np.ascontiguousarray(rows_KD[:kept].T)
