"""Limited-memory BFGS for smooth convex functions.

Scipy's routine does the same with a BLAS, and threads, of its own; taking turns with numpy's threads on the same cores
it needs five times as long on the products that dominate here.

Legend: P parameters.
"""

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_Vector = NDArray[np.float64]
_Pair = tuple[_Vector, _Vector, float]

_MEMORY = 10
_SUFFICIENT_DECREASE = 1e-4
_SMALLEST_STEP = 1e-10


def minimize(
    loss_and_gradient: Callable[[_Vector], tuple[float, _Vector]],
    start_P: _Vector,
    *,
    tolerance: float,
    max_iterations: int = 500,
) -> tuple[_Vector, bool]:
    """Return (the minimum, whether it was reached).

    It counts as reached when an iteration lowers the loss by no more than ``tolerance``, or when no step lowers it.

    Source: Nocedal and Wright, Numerical Optimization, 2nd edition, algorithms 7.4 and 7.5, with backtracking.
    """
    point_P = start_P
    loss, gradient_P = loss_and_gradient(point_P)
    pairs: deque[_Pair] = deque(maxlen=_MEMORY)
    for _ in range(max_iterations):
        direction_P = _descent(gradient_P, pairs)
        slope, step = float(gradient_P @ direction_P), 1.0
        next_loss, next_gradient_P = loss_and_gradient(point_P + direction_P)
        while next_loss > loss + _SUFFICIENT_DECREASE * step * slope:
            step /= 2
            if step < _SMALLEST_STEP:
                return point_P, True
            next_loss, next_gradient_P = loss_and_gradient(point_P + step * direction_P)
        moved_P, turned_P = step * direction_P, next_gradient_P - gradient_P
        curvature = float(moved_P @ turned_P)
        if curvature > 0:
            pairs.append((moved_P, turned_P, 1 / curvature))
        gain, point_P, loss, gradient_P = loss - next_loss, point_P + moved_P, next_loss, next_gradient_P
        if gain <= tolerance:
            return point_P, True
    return point_P, False


def _descent(gradient_P: _Vector, pairs: deque[_Pair]) -> _Vector:
    """Return minus the inverse Hessian, as the last steps know it, times the gradient."""
    direction_P = -gradient_P
    weights = []
    for moved_P, turned_P, inverse in reversed(pairs):
        weight = inverse * float(moved_P @ direction_P)
        weights.append(weight)
        direction_P -= weight * turned_P
    if pairs:
        moved_P, turned_P, inverse = pairs[-1]
        direction_P /= inverse * float(turned_P @ turned_P)
    for (moved_P, turned_P, inverse), weight in zip(pairs, reversed(weights), strict=True):
        direction_P += (weight - inverse * float(turned_P @ direction_P)) * moved_P
    return direction_P
