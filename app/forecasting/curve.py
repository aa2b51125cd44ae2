"""A simulated training: loss and accuracy of every seed after every step.

Legend: S seeds, T steps and the start.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]

HALF_WINDOW = 2
"""A loss is smoothed over this many steps before and after it."""

DIVERGED = 2.0
"""A loss that ends this many times above the first, averaged over the last tenth of the steps, has diverged."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Loss and accuracy of all simulated images after 0, 1, 2, ... steps.

    Attributes:
        loss_ST: mean over images; infinite from the step on at which a number overflowed.
        accuracy_ST: share of the images with the largest output at their label.
        leap: the farthest that one step moved the features, over their spread; both are root mean squares over images.
    """

    loss_ST: _Array
    accuracy_ST: _Array
    leap: float = 0.0

    @property
    def steps(self) -> int:
        """The number of steps after the start."""
        return int(self.loss_ST.shape[1]) - 1

    @property
    def initial_loss(self) -> float:
        """The loss before the first step, which all seeds share."""
        return float(self.loss_ST[0, 0])

    @property
    def diverged(self) -> bool:
        """Whether any seed overflowed, or ended far above where it began."""
        tail_ST = self.loss_ST[:, -max(1, self.steps // 10) :]
        return bool((~(tail_ST.mean(axis=1) <= DIVERGED * self.initial_loss)).any())

    @property
    def spiked(self) -> bool:
        """Whether any seed's smoothed loss rose far above the first on the way."""
        return bool((smoothed(self.loss_ST) > DIVERGED * self.initial_loss).any())


def smoothed(values_ST: _Array) -> _Array:
    """Return the centred moving average over 2 ``HALF_WINDOW`` + 1 steps.

    Towards both ends the window shrinks on both sides alike: a straight line stays what it is, and nothing lags.
    """
    count = values_ST.shape[1]
    if not np.isfinite(values_ST).all():
        return values_ST
    result_ST = values_ST.copy()
    for half in range(1, HALF_WINDOW + 1):
        inner = slice(half, count - half)
        if count <= 2 * half:
            break
        windows_STW = np.lib.stride_tricks.sliding_window_view(values_ST, 2 * half + 1, axis=1)
        result_ST[:, inner] = windows_STW.mean(axis=2)
    return result_ST


def recorded(
    losses: Sequence[_Array],
    accuracies: Sequence[_Array],
    *,
    steps: Sequence[int] | None = None,
    leap: float = 0.0,
) -> Curve:
    """Return the curve of the recorded losses and accuracies of all seeds (S).

    Args:
        losses: one entry a step.
        accuracies: one entry a step.
        steps: at which they were recorded, 0 first; None: at every one. What lies between is interpolated.
        leap: of the features.
    """
    loss_ST, accuracy_ST = np.stack(losses, axis=1), np.stack(accuracies, axis=1)
    if steps is not None and len(steps) <= steps[-1]:
        every_T = np.arange(steps[-1] + 1)
        loss_ST = np.stack([np.interp(every_T, steps, loss_K) for loss_K in loss_ST])
        accuracy_ST = np.stack([np.interp(every_T, steps, share_K) for share_K in accuracy_ST])
    overflowed_ST = np.logical_or.accumulate(~np.isfinite(loss_ST), axis=1)
    return Curve(np.where(overflowed_ST, np.inf, loss_ST), accuracy_ST, leap)
