"""A loss curve the other way round: the time at which each level is first reached.

Legend: L levels, T steps and the start.
"""

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]

LEVELS_L = np.geomspace(0.98, 0.005, 80)
"""Fractions of the initial loss at which curves are compared, falling."""


def level_times_L(loss_T: _Array, levels_L: _Array = LEVELS_L) -> _Array:
    """Return when a curve first falls to each fraction of its start, linear between steps; infinite if it does not."""
    lowest_T = np.minimum.accumulate(loss_T / loss_T[0])
    after_L = np.searchsorted(-lowest_T, -levels_L, side="left")
    reached_L = after_L < len(lowest_T)
    after_L = np.minimum(after_L, len(lowest_T) - 1)
    before_L = np.maximum(after_L - 1, 0)
    fall_L = lowest_T[before_L] - lowest_T[after_L]
    share_L = np.divide(lowest_T[before_L] - levels_L, fall_L, out=np.ones_like(levels_L), where=fall_L > 0)
    return np.where(reached_L, before_L + share_L * (after_L - before_L), np.inf)
