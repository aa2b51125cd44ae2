"""LogME: the evidence of a Bayesian linear model for the labels.

Legend: N images, C classes, M = min(N, D) eigenvalues, T grid points.

Each class's one-hot column y follows N(F w, 1/beta) with w ~ N(0, 1/alpha), hence y ~ N(0, (F F^T + t I) / alpha) with
t = alpha / beta. The best alpha for a given t is N / q(t), q(t) = y^T (F F^T + t I)^-1 y, which leaves a function of t
alone:

    log evidence(t) = -1/2 [ N log 2 pi + N + log det(F F^T + t I) + N log(q(t) / N) ]

It is maximised by a grid over log t and golden sections, so it converges whatever its shape. The determinant counts
every one of the N dimensions: the fixed-point iteration in common use forgets those without features, and grows with
the width of the features when N < D.
"""

import math

import numpy as np
from numpy.typing import NDArray

from app.scoring.contract import Result
from app.scoring.panel import Panel

_Array = NDArray[np.float64]

# t runs over sixteen decades about the largest eigenvalue. The lower end bounds the evidence of labels that the
# features fit exactly, which would be infinite; at the upper end the features no longer count.
_DECADES = 8
_GRID_PER_DECADE = 4
_GOLDEN = (math.sqrt(5) - 1) / 2
_GOLDEN_STEPS = 36  # half a decade times _GOLDEN^36 is below 2e-8, and the value is flat at its maximum


def logme(panel: Panel) -> Result:
    """Return the maximal log evidence per image in nats, averaged over the one-hot columns of the classes.

    Source: You et al. 2021, arXiv:2102.11005, Eq. 2, without centring, as defined there.
    """
    evidence = _Evidence(panel)
    top = math.log(evidence.largest)
    reach = _DECADES * math.log(10)
    grid_T = np.linspace(top - reach, top + reach, 2 * _DECADES * _GRID_PER_DECADE + 1)
    best_C = np.argmax([evidence.at(np.full(panel.num_classes, log_t)) for log_t in grid_T], axis=0)
    low_C, high_C = grid_T[np.maximum(best_C - 1, 0)], grid_T[np.minimum(best_C + 1, len(grid_T) - 1)]
    for _ in range(_GOLDEN_STEPS):
        left_C, right_C = high_C - _GOLDEN * (high_C - low_C), low_C + _GOLDEN * (high_C - low_C)
        rising_C = evidence.at(left_C) < evidence.at(right_C)
        low_C, high_C = np.where(rising_C, left_C, low_C), np.where(rising_C, high_C, right_C)
    chosen_C = (low_C + high_C) / 2
    warnings = ("exact_fit",) if (chosen_C < grid_T[0] + 1e-3).any() else ()
    return Result(value=float(evidence.at(chosen_C).mean()), warnings=warnings)


class _Evidence:
    """Log evidence per image as a function of log t, from one eigen-decomposition of the uncentred features."""

    def __init__(self, panel: Panel) -> None:
        f_ND, y_NC = panel.features_ND, panel.one_hot_NC
        self._n, self._wide = panel.num_images, panel.wide
        values_M, vectors_MM = np.linalg.eigh(f_ND @ f_ND.T if self._wide else f_ND.T @ f_ND)
        self._values_M = np.maximum(values_M, 0.0)
        self._projections_CM = ((y_NC.T if self._wide else y_NC.T @ f_ND) @ vectors_MM) ** 2
        self._length_C = panel.counts_C.astype(np.float64)
        self.largest = float(self._values_M[-1]) or 1.0

    def at(self, log_t_C: _Array) -> _Array:
        """Return the log evidence per image of each class at its own log t."""
        t_C = np.exp(log_t_C)
        shifted_CM = self._values_M + t_C[:, None]
        explained_C = (self._projections_CM / shifted_CM).sum(axis=1)
        # With N >= D the inverse follows from the D x D matrix (Woodbury); q cannot be below |y|^2 / (largest + t).
        q_C = explained_C if self._wide else (self._length_C - explained_C) / t_C
        q_C = np.maximum(q_C, self._length_C / (self.largest + t_C))
        log_det_C = np.log(shifted_CM).sum(axis=1) + (self._n - len(self._values_M)) * log_t_C
        return np.asarray(-0.5 * (math.log(2 * math.pi) + 1 + log_det_C / self._n + np.log(q_C / self._n)))
