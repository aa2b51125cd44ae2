"""TransRate: how many fewer bits the features take when the class is known, up to a tolerated error.

Legend: N images, D feature dimensions, C classes, I images of a class, M = min(rows, columns).

The rate of rows X is 1/2 log det(I + X^T X / (rows * eps)). The determinant is the same with X X^T, so every class is
factorised in the smaller of its number of images and of dimensions.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, eigvalsh, solve_triangular
from scipy.linalg.lapack import dtrtri

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
    rates = _Rates(panel, 2 * math.log(panel.scale) - math.log(EPSILON))
    return Result(value=rates.reduction(weights_C), influence_N=rates.influence(weights_C))


def transrate_scalefree(panel: Panel) -> Result:
    """Return R(X) minus the mean of R(X_c) over images, X having a root mean square row length of one.

    eps = 1e-4 is then a share of the features' total variance.

    Source: Huang et al. 2022, arXiv:2106.09362; the scaling and the weights n_c / N are ours.
    """
    if panel.constant:
        return Result(value=0.0, warnings=("constant_features",))
    n, square_N = panel.num_images, panel.squared_norms_N
    mean_square = float(square_N.mean())
    weights_C = panel.counts_C / n
    rates = _Rates(panel, -math.log(mean_square) - math.log(EPSILON))
    influence_N = rates.influence(weights_C)
    if influence_N is not None:
        within = float(weights_C @ rates.within_C)
        influence_N -= (rates.within_C[panel.labels_N] - within) / n  # the classes' weights move
        influence_N -= rates.slope(weights_C) * (square_N / mean_square - 1) / n  # and so does the scale
    return Result(value=rates.reduction(weights_C), influence_N=influence_N)


class _Rates:
    """The rates of all rows and of each class, and their derivatives by an image's weight.

    Attributes:
        total: the rate of all rows.
        within_C: the rate of the rows of each class.
    """

    def __init__(self, panel: Panel, log_gain: float) -> None:
        """Measure rows multiplied by exp(log_gain / 2)."""
        self._panel = panel
        rows_ND = panel.centred_ND
        everything = _Rate(panel.scatter_MM, rows_ND, log_gain - math.log(panel.num_images), by_images=panel.wide)
        order_N = np.argsort(panel.labels_N, kind="stable")
        self._members = np.split(order_N, np.cumsum(panel.counts_C)[:-1])
        self._of_classes = []
        for members_I in self._members:
            rows_ID, by_images = rows_ND[members_I], len(members_I) < panel.num_dimensions
            if panel.wide:
                scatter_MM = panel.scatter_MM[np.ix_(members_I, members_I)]
            else:
                scatter_MM = rows_ID @ rows_ID.T if by_images else rows_ID.T @ rows_ID
            gain = log_gain - math.log(len(members_I))
            self._of_classes.append(_Rate(scatter_MM, rows_ID, gain, by_images=by_images))
        self._everything, self.total = everything, everything.value
        self.within_C = np.array([rate.value for rate in self._of_classes])

    def reduction(self, weights_C: _Matrix) -> float:
        """Return the total rate less the weighted rates of the classes."""
        return self.total - float(weights_C @ self.within_C)

    def influence(self, weights_C: _Matrix) -> _Matrix | None:
        """Return the derivatives of ``reduction`` for fixed weights and scale; None where a rate has none."""
        total_N = self._everything.leverage_N
        if total_N is None:
            return None
        influence_N = (total_N - total_N.mean()) / 2
        pull_D = np.zeros(self._panel.num_dimensions)
        for weight, rate, members_I in zip(weights_C, self._of_classes, self._members, strict=True):
            leverage_I, solved_D = rate.leverage_N, rate.solved_sum_D
            if leverage_I is None or solved_D is None:
                return None
            influence_N[members_I] -= weight * (leverage_I - leverage_I.mean()) / 2
            pull_D += weight * solved_D
        # An image moves the mean of all, and with it the rows of every class.
        return np.asarray(influence_N + self._panel.centred_ND @ pull_D / self._panel.num_images)

    def slope(self, weights_C: _Matrix) -> float:
        """Return the derivative of ``reduction`` by the logarithm of the squared scale, where leverages exist."""
        rates = zip([1.0, *(-weights_C)], [self._everything, *self._of_classes], strict=True)
        slopes = [weight * rate.leverage_N.sum() / 2 for weight, rate in rates if rate.leverage_N is not None]
        return float(sum(slopes))


class _Rate:
    """1/2 log det(I + gain * scatter), for any gain.

    A gain so large that the identity is lost to rounding leaves the eigenvalues above rounding, whose logarithms are
    added up; the others count as zero, and there are no leverages.

    Attributes:
        value: the rate.
        leverage_N: gain * x^T (I + gain * S)^-1 x of every row x.
        solved_sum_D: gain * (I + gain * S)^-1 times the sum of the rows.
    """

    def __init__(self, scatter_MM: _Matrix, rows_ND: _Matrix, log_gain: float, *, by_images: bool) -> None:
        self.value = 0.0
        self.leverage_N: _Matrix | None = None
        self.solved_sum_D: _Matrix | None = None
        largest = float(np.diagonal(scatter_MM).max())
        if largest == 0.0 or log_gain < -_LARGEST_EXPONENT:
            self.leverage_N, self.solved_sum_D = np.zeros(len(rows_ND)), np.zeros(rows_ND.shape[1])
        elif log_gain + math.log(largest) < -math.log(_MIN_SHARE * len(scatter_MM)):
            self._factorise(scatter_MM, rows_ND, math.exp(log_gain), by_images=by_images)
        else:
            values_M = eigvalsh(scatter_MM, check_finite=False)
            values_M = values_M[values_M > len(values_M) * np.finfo(np.float64).eps * values_M[-1]]
            self.value = float(np.logaddexp(0.0, log_gain + np.log(values_M)).sum() / 2)

    def _factorise(self, scatter_MM: _Matrix, rows_ND: _Matrix, gain: float, *, by_images: bool) -> None:
        shifted_MM = scatter_MM * gain
        shifted_MM[np.diag_indices_from(shifted_MM)] += 1.0
        factor_MM = cholesky(shifted_MM, lower=True, overwrite_a=True, check_finite=False)
        self.value = float(np.log(np.diagonal(factor_MM)).sum())
        if by_images:
            inverse_NN, _ = dtrtri(factor_MM, lower=1)
            self.leverage_N = 1.0 - np.einsum("mn,mn->n", inverse_NN, inverse_NN)
            self.solved_sum_D = gain * (inverse_NN.T @ inverse_NN.sum(axis=1)) @ rows_ND
        else:
            half_DN = solve_triangular(factor_MM, rows_ND.T, lower=True, check_finite=False)
            self.leverage_N = gain * np.einsum("dn,dn->n", half_DN, half_DN)
            summed_D = half_DN.sum(axis=1)
            self.solved_sum_D = gain * solve_triangular(factor_MM, summed_D, lower=True, trans="T", check_finite=False)
