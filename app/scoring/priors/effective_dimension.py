"""How many dimensions the features really use; no label is read.

Legend: N images, D feature dimensions, M = min(N, D).
"""

import math

import numpy as np

from app.scoring.contract import Result
from app.scoring.panel import Panel

_EPSILON = 1e-7  # of the paper
_ROUNDING = 1e-13  # share of the largest eigenvalue below which one is rounding noise


def rankme(panel: Panel) -> Result:
    """Return exp of the entropy of the singular values of the features, which are not centred.

    The paper's epsilon is added to each share; dimensions without any variation get none, so that columns of zeros do
    not count.

    Source: Garrido et al. 2023, arXiv:2210.02885, Section 3.
    """
    warnings = ("constant_features",) if panel.constant else ()
    features_ND = panel.features_ND
    if not features_ND.any():
        return Result(value=0.0, warnings=warnings)
    size = min(features_ND.shape)
    panel.workspace.demand(size**2, f"The matrix of {size} x {size} inner products")
    gram_MM = (panel.products.gram if panel.wide else panel.products.scatter)(features_ND)
    values_M = np.linalg.eigvalsh(gram_MM)
    singular_M = np.sqrt(values_M[values_M > _ROUNDING * values_M[-1]])
    share_M = singular_M / singular_M.sum() + _EPSILON
    return Result(value=math.exp(-float(share_M @ np.log(share_M))), warnings=warnings)


def participation_ratio(panel: Panel) -> Result:
    """Return tr(S)^2 / |S|^2 of the features' covariance S: the number of axes, if all those used had equal variance.

    Source: Gao et al. 2017, doi:10.1101/214262.
    """
    if panel.constant:
        return Result(value=0.0, warnings=("constant_features",))
    d_N, q_N = panel.squared_norms_N, panel.gram_energy_N
    trace, energy = float(d_N.sum()), float(q_N.sum())
    value = trace**2 / energy
    return Result(value=value, influence_N=2 * value * (d_N / trace - q_N / energy))
