"""Exact optimal transport between two small sets of weighted points.

Legend: Z source points, C target points, E pairs in the linear programme.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist

from app.domain.errors import EvaluationFailed

_Array = NDArray[np.float64]

_NEAREST = 5  # pairs that the first programme has for each point
_SMALL = 20_000  # as many pairs are solved at once
_PRECISE = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
_TOLERANCE = 1e-10  # reduced costs above minus this share of the largest cost count as not negative


@dataclass(frozen=True, eq=False)
class Transport:
    """The cheapest way to turn one distribution into another.

    Attributes:
        cost: what it costs in all.
        plan_ZC: how much goes from each source point to each target point.
        potential_C: by how much the cost rises with each target point's weight, up to a common constant.
    """

    cost: float
    plan_ZC: _Array
    potential_C: _Array


def distances(source_ZD: _Array, target_CD: _Array) -> _Array:
    """Return Euclidean distances; squares do not overflow however long the points are."""
    longest = max(float(np.abs(source_ZD).max()), float(np.abs(target_CD).max()))
    if longest == 0:
        return np.zeros((len(source_ZD), len(target_CD)))
    return np.asarray(longest * cdist(source_ZD / longest, target_CD / longest))


def transport(costs_ZC: _Array, weights_Z: _Array, weights_C: _Array) -> Transport:
    """Return the optimal transport; weights are positive and sum to one on either side.

    A large programme starts with the cheapest pairs of every point and a plan that is possible, and takes in pairs
    whose reduced cost is negative until there are none: then it is optimal over all pairs.

    Raises:
        EvaluationFailed: ``transport_failed``: the solver gave up.
    """
    largest = float(costs_ZC.max()) or 1.0
    relative_ZC = costs_ZC / largest
    active_ZC = (
        np.ones(costs_ZC.shape, dtype=bool) if costs_ZC.size <= _SMALL else _first(relative_ZC, weights_Z, weights_C)
    )
    while True:
        plan_ZC, potential_Z, potential_C = _solve(relative_ZC, active_ZC, weights_Z, weights_C)
        reduced_ZC = relative_ZC - potential_Z[:, None] - potential_C
        missing_ZC = (reduced_ZC < -_TOLERANCE) & ~active_ZC
        if not missing_ZC.any():
            return Transport(float((plan_ZC * costs_ZC).sum()), plan_ZC, potential_C * largest)
        reduced_ZC[~missing_ZC] = 0.0
        active_ZC |= missing_ZC & _lowest(reduced_ZC)


def _first(costs_ZC: _Array, weights_Z: _Array, weights_C: _Array) -> NDArray[np.bool_]:
    """Return the cheapest pairs of every point, and the pairs of a plan that takes the points in order."""
    left_Z, left_C = np.cumsum(weights_Z), np.cumsum(weights_C)
    ends_E = np.sort(np.concatenate([[0.0], left_Z[:-1], left_C[:-1]]))
    active_ZC = _lowest(costs_ZC)
    source_E = np.minimum(np.searchsorted(left_Z, ends_E, side="right"), len(left_Z) - 1)
    target_E = np.minimum(np.searchsorted(left_C, ends_E, side="right"), len(left_C) - 1)
    for source, target in zip(source_E, target_E, strict=True):  # ends that coincide up to rounding may swap
        active_ZC[source : source + 2, max(target - 1, 0) : target + 2] = True
        active_ZC[max(source - 1, 0) : source + 1, target : target + 2] = True
    return active_ZC


def _lowest(costs_ZC: _Array) -> NDArray[np.bool_]:
    chosen_ZC = np.zeros(costs_ZC.shape, dtype=bool)
    rows, columns = (min(_NEAREST, size) for size in costs_ZC.shape)
    np.put_along_axis(chosen_ZC, np.argpartition(costs_ZC, columns - 1, axis=1)[:, :columns], True, axis=1)
    np.put_along_axis(chosen_ZC, np.argpartition(costs_ZC, rows - 1, axis=0)[:rows], True, axis=0)
    return chosen_ZC


def _solve(
    costs_ZC: _Array, active_ZC: NDArray[np.bool_], weights_Z: _Array, weights_C: _Array
) -> tuple[_Array, _Array, _Array]:
    source_E, target_E = np.nonzero(active_ZC)
    pairs, sources = len(source_E), len(weights_Z)
    # The last target's equation follows from the others and is left out: rounding must not contradict it.
    kept = np.concatenate([np.ones(pairs, dtype=bool), target_E < len(weights_C) - 1])
    rows = np.concatenate([source_E, sources + target_E])[kept]
    columns = np.concatenate([np.arange(pairs), np.arange(pairs)])[kept]
    sums = csr_array((np.ones(len(rows)), (rows, columns)), shape=(sources + len(weights_C) - 1, pairs))
    right = np.concatenate([weights_Z, weights_C[:-1]])
    solved = linprog(costs_ZC[source_E, target_E], A_eq=sums, b_eq=right, method="highs", options=_PRECISE)
    if solved.status != 0:
        raise EvaluationFailed(
            "transport_failed",
            f"The optimal transport between {sources} source and {len(weights_C)} target classes was not found: "
            f"{solved.message}",
            param="source_classes",
            hint="Check the class means and image counts of the model card.",
        )
    plan_ZC = np.zeros(costs_ZC.shape)
    plan_ZC[source_E, target_E] = np.maximum(solved.x, 0.0)
    potentials = solved.eqlin.marginals
    return plan_ZC, potentials[:sources], np.append(potentials[sources:], 0.0)
