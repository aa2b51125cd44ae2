"""How far the user's classes are from the classes that the model was pretrained on.

Legend: N images, D feature dimensions, C target classes, Z source classes.

Both sides are class means weighted by their images, as the model's card keeps no more of the source data.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.scoring.contract import Result
from app.scoring.panel import Panel
from app.scoring.source_data.transport import Transport, distances, transport

_Array = NDArray[np.float64]

GAMMA = 0.01  # of Cui et al.
LAMBDA = 1.0


def domain_similarity(panel: Panel) -> Result:
    """Return exp(-0.01 times the Earth Mover's Distance between class means), in the features' own unit.

    Source: Cui et al. 2018, arXiv:1806.06193, Section 4.1.
    """
    moved = _move(panel)
    return _similarity(panel, moved, -GAMMA * panel.scale)


def domain_similarity_scalefree(panel: Panel) -> Result:
    """Return exp(-EMD / mean distance), the mean taken over all pairs of a source and a target class.

    It lies between exp(-1), where the best match is no better than any, and 1; the scale of the features cancels.
    """
    moved = _move(panel)
    mean = float(moved.weights_Z @ moved.distances_ZC @ moved.weights_C)
    value = math.exp(-moved.found.cost / mean) if mean > 0 else 1.0
    return Result(value=value, warnings=_warnings(panel))


def otce(panel: Panel) -> Result:
    """Return -H(target class | source class) under the optimal coupling, minus the relative cost of that coupling.

    The cost is the squared distance, as in the paper, here between class means and as a share of what independent
    coupling costs: the paper fits its weight on auxiliary tasks for every source, which a service cannot.

    Source: Tan, Li and Huang 2021, arXiv:2103.13843, Section 3.
    """
    moved = _move(panel, squared=True)
    independent = float(moved.weights_Z @ moved.distances_ZC @ moved.weights_C)
    if panel.constant or independent == 0:
        return Result(value=-_entropy(moved.weights_C) - LAMBDA, warnings=_warnings(panel))
    conditional_entropy = _entropy(moved.found.plan_ZC.ravel()) - _entropy(moved.found.plan_ZC.sum(axis=1))
    return Result(value=-conditional_entropy - LAMBDA * moved.found.cost / independent)


@dataclass(frozen=True, eq=False)
class _Move:
    source_ZD: _Array
    target_CD: _Array
    distances_ZC: _Array
    weights_Z: _Array
    weights_C: _Array
    found: Transport


def _move(panel: Panel, *, squared: bool = False) -> _Move:
    assert panel.source_classes is not None
    all_weights_Z = np.asarray(panel.source_classes.weights_Z)
    present_Z = all_weights_Z > 0
    source_ZD, weights_Z = np.asarray(panel.source_classes.means_ZD)[present_Z], all_weights_Z[present_Z]
    target_CD = panel.mean_D + panel.class_sums_CD / panel.counts_C[:, None]
    weights_C = panel.counts_C / panel.num_images
    costs_ZC = distances(source_ZD, target_CD)
    if squared:
        costs_ZC = (costs_ZC / (float(costs_ZC.max()) or 1.0)) ** 2
    return _Move(source_ZD, target_CD, costs_ZC, weights_Z, weights_C, transport(costs_ZC, weights_Z, weights_C))


def _similarity(panel: Panel, moved: _Move, exponent: float) -> Result:
    """Return exp(exponent * EMD); by the envelope theorem the plan may be held fixed in the derivative."""
    value = math.exp(exponent * moved.found.cost)
    share_ZC = np.divide(
        moved.found.plan_ZC, moved.distances_ZC, out=np.zeros_like(moved.distances_ZC), where=moved.distances_ZC > 0
    )
    push_CD = share_ZC.sum(axis=0)[:, None] * moved.target_CD - share_ZC.T @ moved.source_ZD
    from_mean_N = (
        panel.own_products(panel.centred_ND, push_CD)
        - np.einsum("cd,cd->c", panel.class_sums_CD / panel.counts_C[:, None], push_CD)[panel.labels_N]
    )
    potential_N = moved.found.potential_C[panel.labels_N] - moved.weights_C @ moved.found.potential_C
    slope_N = potential_N / panel.num_images + from_mean_N / panel.counts_C[panel.labels_N]
    return Result(value=value, warnings=_warnings(panel), influence_N=value * exponent * slope_N)


def _entropy(shares: _Array) -> float:
    positive = shares[shares > 0]
    return -float(positive @ np.log(positive))


def _warnings(panel: Panel) -> tuple[str, ...]:
    return ("constant_features",) if panel.constant else ()
