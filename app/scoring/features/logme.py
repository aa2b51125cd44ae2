"""LogME: the evidence of a Bayesian linear model for the labels.

Legend: N images, C classes, M = min(N, D) rows of the smaller Gram or scatter matrix, T grid points,
J interpolation nodes.

Each class's one-hot column y follows N(F w, 1/beta) with w ~ N(0, 1/alpha), hence y ~ N(0, (F F^T + t I) / alpha) with
t = alpha / beta. The best alpha for a given t is N / q(t), q(t) = y^T (F F^T + t I)^-1 y, which leaves a function of t
alone:

    log evidence(t) = -1/2 [ N log 2 pi + N + log det(F F^T + t I) + N log(q(t) / N) ]

It is maximised by a grid over log t and Brent's method. The determinant counts every one of the N dimensions: the
fixed-point iteration in common use forgets those without features, and grows with the width of the features when N < D.

No eigenvectors are needed: in tridiagonal form each t costs O(M) a class.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from app.scoring.contract import Result
from app.scoring.panel import Panel

_Array = NDArray[np.float64]

# t runs over sixteen decades about the largest eigenvalue. The lower end bounds the evidence of labels that the
# features fit exactly, which would be infinite; at the upper end the features no longer count.
_DECADES = 8
_GRID_PER_DECADE = 4
_LOG_T_TOLERANCE = 1e-6  # the value is flat at its maximum: it is off by the square of this
_LEVERAGE_ERROR = 1e-6
_MOST_NODES = 40


def logme(panel: Panel) -> Result:
    """Return the maximal log evidence per image in nats, averaged over the one-hot columns of the classes.

    Source: You et al. 2021, arXiv:2102.11005, Eq. 2, without centring, as defined there.
    """
    evidence = _Evidence(panel)
    top = math.log(evidence.largest)
    reach = _DECADES * math.log(10)
    grid_T = np.linspace(top - reach, top + reach, 2 * _DECADES * _GRID_PER_DECADE + 1)
    on_grid_TC = np.array([evidence.at(log_t, slice(None)) for log_t in grid_T])
    best_C = on_grid_TC.argmax(axis=0)
    chosen_C, value_C = grid_T[best_C], on_grid_TC.max(axis=0)
    for label, best in enumerate(best_C):
        between = (grid_T[max(best - 1, 0)], grid_T[min(best + 1, len(grid_T) - 1)])
        refined = minimize_scalar(
            lambda log_t, label=label: -evidence.at(log_t, slice(label, label + 1))[0],
            bounds=between,
            method="bounded",
            options={"xatol": _LOG_T_TOLERANCE},
        )
        if -refined.fun > value_C[label]:
            chosen_C[label], value_C[label] = refined.x, -refined.fun
    warnings = ("exact_fit",) if (chosen_C < grid_T[0] + 1e-3).any() else ()
    return Result(value=float(value_C.mean()), warnings=warnings, influence_N=evidence.influence(chosen_C, value_C))


class _Evidence:
    """Log evidence per image as a function of log t, from one tridiagonal form of the uncentred features."""

    def __init__(self, panel: Panel) -> None:
        self._n, self._wide = panel.num_images, panel.wide
        self._features_ND, self._labels_NC = panel.features_ND, panel.one_hot_NC
        self._form = panel.uncentred_tridiagonal
        self._rotated_MC = self._form.rotate(self._labels_NC if self._wide else self._features_ND.T @ self._labels_NC)
        self._length_C = panel.counts_C.astype(np.float64)
        self.largest = self._form.largest

    def at(self, log_t: float, classes: slice) -> _Array:
        """Return the log evidence per image of some classes at one log t."""
        q_C = self._quadratic(math.exp(log_t), classes)
        values_M = self._form.eigenvalues_M
        log_det = float(np.log(values_M + math.exp(log_t)).sum()) + (self._n - len(values_M)) * log_t
        return np.asarray(-0.5 * (math.log(2 * math.pi) + 1 + log_det / self._n + np.log(q_C / self._n)))

    def _quadratic(self, t: float, classes: slice) -> _Array:
        rotated_MC = self._rotated_MC[:, classes]
        explained_C = np.einsum("mc,mc->c", rotated_MC, self._form.solve(t, rotated_MC))
        length_C = self._length_C[classes]
        # With N >= D the inverse follows from the D x D matrix (Woodbury); q cannot be below |y|^2 / (largest + t).
        q_C = explained_C if self._wide else (length_C - explained_C) / t
        return np.asarray(np.maximum(q_C, length_C / (self.largest + t)))

    def influence(self, log_t_C: _Array, value_C: _Array) -> _Array:
        """Return every image's influence on the mean evidence, given each class's best log t.

        At the maximum the evidence moves with an image's weight only directly (envelope theorem), by
        1/2 [log beta - f (F'F + t I)^-1 f - beta residual^2 - log 2 pi].
        """
        classes = len(log_t_C)
        directions_MN = self._form.rotated_identity() if self._wide else self._form.rotate(self._features_ND.T)
        solved_MC = np.empty_like(self._rotated_MC)
        beta_C = np.empty(classes)
        for label, log_t in enumerate(log_t_C):
            own = slice(label, label + 1)
            solved_MC[:, own] = self._form.solve(math.exp(log_t), self._rotated_MC[:, own])
            beta_C[label] = self._n / self._quadratic(math.exp(log_t), own)[0] / math.exp(log_t)
        projected_NC = directions_MN.T @ solved_MC
        residual_NC = projected_NC * np.exp(log_t_C) if self._wide else self._labels_NC - projected_NC
        constant_C = np.log(beta_C) - math.log(2 * math.pi) - 2 * value_C
        doubled_N = (constant_C - beta_C * residual_NC**2).mean(axis=1) - self._mean_leverage(log_t_C, directions_MN)
        return np.asarray(doubled_N / (2 * self._n))

    def _mean_leverage(self, log_t_C: _Array, directions_MN: _Array) -> _Array:
        """Return f (F'F + t I)^-1 f of every image, averaged over the classes' t."""
        mean_N = np.zeros(self._n)
        for log_t, weight in zip(*_quadrature(log_t_C), strict=True):
            within_N = np.einsum("mn,mn->n", directions_MN, self._form.solve(math.exp(log_t), directions_MN))
            mean_N += weight * (1 - math.exp(log_t) * within_N if self._wide else within_N)
        return mean_N


def _quadrature(log_t_C: _Array) -> tuple[_Array, _Array]:
    """Return (nodes, weights) that average a sum of s / (s + t) over the given log t.

    Such sums are analytic in log t up to i pi off the real axis, so that Chebyshev interpolation converges
    geometrically at a known rate.
    """
    classes, middle = len(log_t_C), (log_t_C.max() + log_t_C.min()) / 2
    half = max((log_t_C.max() - log_t_C.min()) / 2, 1e-6)
    rate = math.pi / half + math.hypot(1.0, math.pi / half)
    nodes = min(_MOST_NODES, 1 + math.ceil(-math.log(_LEVERAGE_ERROR) / math.log(rate)))
    if classes <= nodes:
        return log_t_C, np.full(classes, 1 / classes)
    node_J = np.cos(math.pi * (np.arange(nodes) + 0.5) / nodes)
    at_nodes_JJ = np.polynomial.chebyshev.chebvander(node_J, nodes - 1)
    at_classes_J = np.polynomial.chebyshev.chebvander((log_t_C - middle) / half, nodes - 1).mean(axis=0)
    return middle + half * node_J, np.linalg.solve(at_nodes_JJ.T, at_classes_J)
