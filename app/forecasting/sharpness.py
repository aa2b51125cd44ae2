"""How sharply the loss bends while the bilinear model trains, against what the learning rate can follow.

Legend: C classes, N images, Q directions.

The head grows, the backbone's part of the kernel with its square, and the loss bends more. Where learning rate times
the largest eigenvalue of the curvature passes the stable limit, training no longer follows the gradient: the real one
settles at that edge, the simulated one jumps across, and its times are too short. On a small network with frozen batch
norm the time to half the loss was right within a third while the product stayed within the limit, and under a third of
the real one where it did not.

The curvature is the Gauss-Newton matrix J' H J of the model as it stands, with J that of head and backbone and H the
loss's curvature in the outputs. Its largest eigenvalue is that of J J' H, found by power iteration.
"""

import numpy as np
from numpy.typing import NDArray

from app.domain.finetuning import Loss
from app.forecasting.batch_order import batches_SB, weights_SN
from app.forecasting.bilinear import Trajectory
from app.forecasting.linearisation import Linearisation
from app.forecasting.losses import bend
from app.forecasting.stability import largest_step
from app.forecasting.training import Training

_Array = NDArray[np.float64]
_LOOKS = 8
_ITERATIONS = 15


def passes_stable_limit(linearisation: Linearisation, training: Training) -> bool:
    """Return whether the bilinear model's curvature passes the limit at one of some steps, ever further apart."""
    limit = largest_step(training.momentum, nesterov=training.nesterov)
    trajectory = Trajectory(linearisation, training, seeds=1)
    looked_at = set(np.geomspace(1, training.steps, _LOOKS).astype(int).tolist())
    batches = batches_SB(linearisation.num_images, training.batch_size, training.steps, [0])
    with np.errstate(over="ignore", invalid="ignore"):
        for number, batch_SB in enumerate(batches):
            residual_SCN = trajectory.look()[0]
            if number in looked_at:
                curvature = _largest_eigenvalue(trajectory, residual_SCN[0], training.loss) + training.weight_decay
                if not training.rate_at(number) * curvature <= limit:
                    return True
            trajectory.step(number, residual_SCN * weights_SN(batch_SB, linearisation.num_images)[:, None])
    return False


def _largest_eigenvalue(trajectory: Trajectory, residual_CN: _Array, loss: Loss) -> float:
    """Return the largest eigenvalue of the mean loss's curvature; a lower bound, a few per cent short."""
    images = residual_CN.shape[1]
    vector_CN = np.random.default_rng(0).standard_normal(residual_CN.shape)
    value = 0.0
    for _ in range(_ITERATIONS):
        vector_CN = trajectory.kernel_times(bend(loss, residual_CN, trajectory.target_CN, vector_CN) / images)
        value = float(np.linalg.norm(vector_CN))
        if value == 0 or not np.isfinite(value):
            return value
        vector_CN /= value
    return value
