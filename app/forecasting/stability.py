"""The largest learning rate at which gradient descent on the linearised network does not blow up.

Legend: N images, B images of a batch.

Along an eigenvector of curvature h (weight decay included), with a = rate * h, heavy-ball momentum m follows z^2 - (1
+ m - a) z + m = 0 and Nesterov's, as torch.optim.SGD has it, z^2 - (1 + m)(1 - a) z + m (1 - a) = 0. Both roots lie
within the unit circle exactly when a < 2 (1 + m), respectively a < 2 (1 + m) / (1 + 2 m).

The squared loss has curvature lambda / N with lambda the kernel's largest eigenvalue: the limit is exact for full
batches. Cross-entropy bends less: its Hessian in the outputs is diag(p) - p p', 1 / C at the equal outputs of the
start (above that limit the first steps already overshoot) and never over 1/2 (below that limit nothing overshoots,
wherever training goes). The second is the one given as the largest learning rate, since it is the one to rely on;
only above the first is a training called unstable before it is simulated. For two classes they are the same.

A batch bends more than the whole: its curvature is taken over sampled batches, and the largest counts. And the bilinear
model bends more and more as its head grows, which no limit at the start knows: the simulation itself shows that.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.forecasting.batch_order import batches_SB
from app.forecasting.frozen_kernel import FrozenKernel
from app.forecasting.linearisation import Linearisation
from app.forecasting.losses import initial_curvature, largest_curvature
from app.forecasting.training import Training

_SAMPLED_EPOCHS = 3
_SAMPLED_BATCHES = 12


@dataclass(frozen=True)
class LearningRateLimit:
    """Learning rates that bound stable training; infinite for features and kernel of zeros.

    Attributes:
        certain: below it no batch overshoots, at any outputs.
        initial: above it training overshoots from the start.
    """

    certain: float
    initial: float


def largest_step(momentum: float, *, nesterov: bool) -> float:
    """Return the largest stable learning rate at curvature 1."""
    step = 2 * (1 + momentum)
    return step / (1 + 2 * momentum) if nesterov else step


def learning_rate_limit(linearisation: Linearisation, training: Training) -> LearningRateLimit:
    """Return the limits for the linearised network at its start, with the training's momentum and batch size."""
    step = largest_step(training.momentum, nesterov=training.nesterov)
    whole = FrozenKernel(linearisation).largest_eigenvalue() / linearisation.num_images
    batch = max([whole, *_batch_curvatures(linearisation, training.batch_size)])
    decay = training.weight_decay
    certain = batch * largest_curvature(training.loss) + decay
    initial = whole * initial_curvature(training.loss, linearisation.num_classes) + decay
    return LearningRateLimit(certain=_over(step, certain), initial=_over(step, initial))


def _batch_curvatures(linearisation: Linearisation, batch_size: int) -> list[float]:
    """Return the largest eigenvalue over B of batches of a few epochs."""
    images = linearisation.num_images
    if batch_size >= images:
        return []
    steps = min(_SAMPLED_BATCHES, _SAMPLED_EPOCHS * (images // batch_size))
    batches: list[NDArray[np.intp]] = [
        batch_SB[0]
        for batch_SB in batches_SB(images, batch_size, 2 * steps + images, [0])
        if batch_SB.size == batch_size
    ]
    return [FrozenKernel(linearisation.subset(batch)).largest_eigenvalue() / batch_size for batch in batches[:steps]]


def _over(step: float, curvature: float) -> float:
    return step / curvature if curvature > 0 else float("inf")
