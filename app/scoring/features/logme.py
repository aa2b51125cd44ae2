"""LogME: the evidence of a Bayesian linear model for the labels.

Legend: N images, D feature dimensions, C classes, M axes of the centred features, T values of t.

Each class's one-hot column y follows N(F w, 1/beta) with w ~ N(0, 1/alpha), hence y ~ N(0, A(t) / alpha) with
A(t) = F F' + t I and t = alpha / beta. The best alpha for a given t is N / q(t), q(t) = y' A(t)^-1 y, which leaves a
function of t alone:

    log evidence(t) = -1/2 [ N log 2 pi + N + log det A(t) + N log(q(t) / N) ]

It is maximised by a grid over log t, then by halving. The determinant counts every one of the N dimensions: the
fixed-point iteration in common use forgets those without features, and grows with the width of the features when N < D.

The features are not centred. With x = U S V' the centred ones and mu their mean, F F' is an arrow in the orthonormal
basis of U and e, the vector of equal entries: S^2 on the diagonal, sqrt(N) S V'mu beside it and N |mu|^2 in the corner.
What is left of the corner of A(t) once the others are eliminated, gamma(t), is a sum of positive terms, so that a mean
much larger than the spread costs no digits.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from app.scoring.contract import Result
from app.scoring.features.label_axes import label_axes
from app.scoring.panel import Panel

_Array = NDArray[np.float64]

# t runs over sixteen decades about the largest eigenvalue. The lower end bounds the evidence of labels that the
# features fit exactly, which would be infinite; at the upper end the features no longer count.
_DECADES = 8
_GRID_PER_DECADE = 4
_HALVINGS = 20  # to 1e-6 in log t: the value is flat at its maximum, and off by the square of this
_NEGLIGIBLE = 1e-14  # share of the largest eigenvalue below which an axis is rounding noise


def logme(panel: Panel) -> Result:
    """Return the maximal log evidence per image in nats, averaged over the one-hot columns of the classes.

    Source: You et al. 2021, arXiv:2102.11005, Eq. 2, without centring, as defined there.
    """
    evidence = _Evidence(panel)
    top, reach = math.log(evidence.largest), _DECADES * math.log(10)
    grid_T = np.linspace(top - reach, top + reach, 2 * _DECADES * _GRID_PER_DECADE + 1)
    on_grid_TC = np.stack([evidence.at(np.full(panel.num_classes, log_t)) for log_t in grid_T])
    best_C = on_grid_TC.argmax(axis=0)
    chosen_C, value_C = grid_T[best_C], on_grid_TC.max(axis=0)
    low_C, high_C = grid_T[np.maximum(best_C - 1, 0)], grid_T[np.minimum(best_C + 1, len(grid_T) - 1)]
    for _ in range(_HALVINGS):
        middle_C = (low_C + high_C) / 2
        rising_C = evidence.rises(middle_C)
        low_C, high_C = np.where(rising_C, middle_C, low_C), np.where(rising_C, high_C, middle_C)
    refined_C = evidence.at(middle_C)
    chosen_C = np.where(refined_C > value_C, middle_C, chosen_C)
    value_C = np.maximum(refined_C, value_C)
    if panel.constant:  # within a class all images have the same influence: the error is zero by construction
        return Result(value=float(value_C.mean()), warnings=("constant_features",))
    warnings = ("exact_fit",) if (chosen_C < grid_T[0] + 1e-3).any() else ()
    return Result(value=float(value_C.mean()), warnings=warnings, influence_N=evidence.influence(chosen_C, value_C))


class _Evidence:
    """Log evidence per image of every class as a function of its log t.

    Attributes:
        largest: the largest eigenvalue of F F'; 1 when all features are zero.
    """

    def __init__(self, panel: Panel) -> None:
        n, mean_D = panel.num_images, panel.mean_D
        self._n, self._axes = n, label_axes(panel)
        values_M = self._axes.values_M
        kept_M = values_M > _NEGLIGIBLE * values_M[0]
        safe_M = np.where(kept_M, values_M, 1.0)
        self._along_M = np.where(kept_M, self._axes.of((panel.centred_ND @ mean_D)[:, None])[:, 0], 0.0)  # S V'mu
        weights_N = self._axes.combined((self._along_M / safe_M)[:, None])[:, 0]
        self._inside_M = n * self._along_M**2 / safe_M  # N times the squared mean along V
        self._outside = n * float(np.square(mean_D - weights_N @ panel.centred_ND).sum())
        self._squares_MC = np.square(self._axes.projected_MC)
        self._crossed_MC = self._along_M[:, None] * self._axes.projected_MC
        self._share_C = panel.counts_C / n
        self._length_C = panel.counts_C.astype(np.float64)
        self.largest = _largest(values_M, n * self._along_M**2, n * float(mean_D @ mean_D))

    def at(self, log_t_C: _Array) -> _Array:
        """Return the log evidence per image, one log t for each class."""
        # On the grid all classes have the same t, and one column of weights serves them.
        log_t_B = log_t_C[:1] if (log_t_C == log_t_C[0]).all() else log_t_C
        t_B = np.exp(log_t_B)
        shifted_MB = self._axes.values_M[:, None] + t_B
        inverse_MB = 1 / shifted_MB
        dimensions = min(self._n - 1, len(shifted_MB))
        log_det_B = np.log(shifted_MB[:dimensions]).sum(axis=0) + np.log(self._gamma(t_B, inverse_MB))
        log_det_B += (self._n - 1 - dimensions) * log_t_B
        q_C = self._quadratic(t_B, inverse_MB)
        return np.asarray(-0.5 * (math.log(2 * math.pi) + 1 + log_det_B / self._n + np.log(q_C / self._n)))

    def rises(self, log_t_C: _Array) -> NDArray[np.bool_]:
        """Return whether the evidence grows with log t."""
        t_C = np.exp(log_t_C)
        values_M1 = self._axes.values_M[:, None]
        inverse_MC = 1 / (values_M1 + t_C)
        squared_MC = inverse_MC**2
        dimensions = min(self._n - 1, len(inverse_MC))
        gamma_C = self._gamma(t_C, inverse_MC)
        growth_C = 1 + (self._inside_M * self._axes.values_M) @ squared_MC  # of gamma with t
        log_det_C = t_C * (inverse_MC[:dimensions].sum(axis=0) + growth_C / gamma_C) + self._n - 1 - dimensions
        rest_C = self._rest(inverse_MC)
        rest_growth_C = _column_dots(self._crossed_MC, squared_MC)
        growth_of_q_C = (
            self._n * rest_C / gamma_C * (2 * rest_growth_C - rest_C * growth_C / gamma_C)
            - _column_dots(self._squares_MC, squared_MC)
            - self._axes.outside_C / t_C**2
        )
        return np.asarray(log_det_C + self._n * t_C * growth_of_q_C / self._quadratic(t_C, inverse_MC) < 0)

    def influence(self, log_t_C: _Array, value_C: _Array) -> _Array:
        """Return every image's influence on the mean evidence, given each class's best log t.

        At the maximum the evidence moves with an image's weight only directly (envelope theorem), by
        1/2 [log beta - f (F'F + t I)^-1 f - beta residual^2 - log 2 pi].
        """
        axes, n, t_C = self._axes, self._n, np.exp(log_t_C)
        values_M1 = axes.values_M[:, None]
        inverse_MC = 1 / (values_M1 + t_C)
        gamma_C, rest_C = self._gamma(t_C, inverse_MC), self._rest(inverse_MC)
        scaled_MC = (t_C if axes.complete else -values_M1) * inverse_MC * axes.projected_MC
        both_NC = axes.combined(np.hstack([scaled_MC, self._along_M[:, None] * inverse_MC]))
        corner_NC = 1 - n * both_NC[:, len(t_C) :]
        residual_NC = both_NC[:, : len(t_C)] + corner_NC * (t_C * rest_C / gamma_C)
        if not axes.complete:
            residual_NC += axes.labels_NC
        leverage_N = 1 / n + axes.squares((values_M1 * inverse_MC).mean(axis=1, keepdims=True))[:, 0]
        leverage_N -= np.square(corner_NC) @ (t_C / gamma_C) / (n * len(t_C))
        beta_C = n / self._quadratic(t_C, inverse_MC) / t_C
        constant = float((np.log(beta_C) - math.log(2 * math.pi) - 2 * value_C).mean())
        return np.asarray((constant - np.square(residual_NC) @ beta_C / len(t_C) - leverage_N) / (2 * n))

    def _gamma(self, t_B: _Array, inverse_MB: _Array) -> _Array:
        return np.asarray(t_B * (1 + self._inside_M @ inverse_MB) + self._outside)

    def _rest(self, inverse_MB: _Array) -> _Array:
        """Return the labels' component along e that the axes do not explain, over sqrt(N)."""
        return np.asarray(self._share_C - _column_dots(self._crossed_MC, inverse_MB))

    def _quadratic(self, t_B: _Array, inverse_MB: _Array) -> _Array:
        q_C = _column_dots(self._squares_MC, inverse_MB) + self._axes.outside_C / t_B
        q_C += self._n * self._rest(inverse_MB) ** 2 / self._gamma(t_B, inverse_MB)
        # No eigenvalue of A is above largest + t; rounding may say otherwise where labels are fitted exactly.
        return np.asarray(np.maximum(q_C, self._length_C / (self.largest + t_B)))


def _column_dots(left_MC: _Array, right_MB: _Array) -> _Array:
    """Return the products of columns, those of the right the same for all when there is one."""
    if right_MB.shape[1] == 1:
        return np.asarray(right_MB[:, 0] @ left_MC)
    return np.asarray(np.einsum("mc,mc->c", left_MC, right_MB))


def _largest(values_M: _Array, beside_M: _Array, corner: float) -> float:
    """Return the largest eigenvalue of an arrow matrix from its diagonal, the squares beside it and its corner."""
    low, high = max(float(values_M[0]), corner), float(values_M[0]) + corner
    kept_M = beside_M > 1e-30 * corner * values_M[0]

    def excess(value: float) -> float:
        return value - corner - float((beside_M[kept_M] / (value - values_M[kept_M])).sum())

    low *= 1 + 1e-14
    if not kept_M.any() or low >= high or excess(low) >= 0:
        return low or 1.0
    return float(brentq(excess, low, high, rtol=1e-12)) if excess(high) > 0 else high
