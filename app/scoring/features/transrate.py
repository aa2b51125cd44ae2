"""TransRate: how many fewer bits the features take when the class is known, up to a tolerated error.

Legend: N images, D feature dimensions, C classes, I images of a class, M = min(rows, columns).

The rate of rows X is 1/2 log det(I + X^T X / (rows * eps)). The determinant is the same with X X^T, so every class is
factorised in the smaller of its number of images and of dimensions.

Neither score has influences. Where classes hardly differ, their derivatives by the images' weights nearly cancel, and
what remains gives standard errors a fifth too wide; leave-one-out differences give still wider ones.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh
from scipy.linalg.lapack import dpotrf

from app.scoring.contract import Result
from app.scoring.panel import Panel

_Matrix = NDArray[np.float64]
EPSILON = 1e-4
_LARGEST_EXPONENT = 700  # exp of more overflows; exp of less than minus it is nothing
_MIN_SHARE = 1e-12  # the identity's share of the largest diagonal entry below which its Cholesky factor is noise


def transrate(panel: Panel) -> Result:
    """Return R(X) minus the unweighted mean over classes of R(X_c), in nats, with eps = 1e-4.

    X are the centred features in the caller's units; the rows of a class are not centred again. Features of another
    scale give another value, as in the paper.

    Source: Huang et al. 2022, arXiv:2106.09362, the listing.
    """
    if panel.constant:
        return Result(value=0.0, warnings=("constant_features",))
    weights_C = np.full(panel.num_classes, 1.0 / panel.num_classes)
    return Result(value=_rate_reduction(panel, 2 * math.log(panel.scale), weights_C))


def transrate_scalefree(panel: Panel) -> Result:
    """Return R(X) minus the mean of R(X_c) over images, X having a root mean square row length of one.

    eps = 1e-4 is then a share of the features' total variance.

    Source: Huang et al. 2022, arXiv:2106.09362; the scaling and the weights n_c / N are ours.
    """
    if panel.constant:
        return Result(value=0.0, warnings=("constant_features",))
    log_gain = -math.log(float(panel.squared_norms_N.mean()))
    return Result(value=_rate_reduction(panel, log_gain, panel.counts_C / panel.num_images))


def _rate_reduction(panel: Panel, log_gain: float, weights_C: _Matrix) -> float:
    """Return the rate of all rows less the weighted rates of the classes, for rows times exp(log_gain / 2)."""
    log_gain -= math.log(EPSILON)
    whole_gain = log_gain - math.log(panel.num_images)
    if panel.decomposed:
        reduction = _rate_of_spectrum(panel.spectrum[0], whole_gain)
    else:
        reduction = _rate(panel.scatter_MM, whole_gain)
    for weight, members_I in zip(weights_C, panel.class_members, strict=True):
        if panel.gram_known:
            scatter_MM = panel.scatter_MM[np.ix_(members_I, members_I)]
        elif len(members_I) < panel.num_dimensions:
            scatter_MM = panel.products.gram(panel.centred_ND[members_I])
        else:
            scatter_MM = _scatter_of(panel, members_I)
        reduction -= float(weight) * _rate(scatter_MM, log_gain - math.log(len(members_I)))
    return reduction


def _scatter_of(panel: Panel, members_I: NDArray[np.intp]) -> _Matrix:
    """Return the scatter matrix (D x D) of some images."""
    parts = panel.workspace.parts(len(members_I), panel.num_dimensions)
    scatter_DD = panel.products.scatter(panel.centred_ND[members_I[next(parts)]])
    for part in parts:
        scatter_DD += panel.products.scatter(panel.centred_ND[members_I[part]])
    return scatter_DD


def _rate(scatter_MM: _Matrix, log_gain: float) -> float:
    """Return 1/2 log det(I + gain * scatter), for any gain.

    A gain so large that the identity is lost to rounding leaves the eigenvalues above rounding, whose logarithms are
    added up; the others count as zero.
    """
    largest = float(np.diagonal(scatter_MM).max())
    if largest == 0.0 or log_gain < -_LARGEST_EXPONENT:
        return 0.0
    if log_gain + math.log(largest) < -math.log(_MIN_SHARE * len(scatter_MM)):
        shifted_MM = scatter_MM * math.exp(log_gain)
        shifted_MM.flat[:: len(shifted_MM) + 1] += 1.0
        factor_MM, _ = dpotrf(shifted_MM.T, lower=0, clean=0, overwrite_a=1)
        return float(np.log(np.diagonal(factor_MM)).sum())
    return _rate_of_spectrum(eigvalsh(scatter_MM, check_finite=False)[::-1], log_gain)


def _rate_of_spectrum(values_M: _Matrix, log_gain: float) -> float:
    """Return the same from the eigenvalues, largest first."""
    if values_M[0] <= 0.0 or log_gain < -_LARGEST_EXPONENT:
        return 0.0
    values_M = values_M[values_M > len(values_M) * np.finfo(np.float64).eps * values_M[0]]
    return float(np.logaddexp(0.0, log_gain + np.log(values_M)).sum() / 2)
