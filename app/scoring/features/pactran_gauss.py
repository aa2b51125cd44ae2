"""PACTran with a Gaussian prior: a PAC-Bayes bound on the loss of a linear classifier, from its loss and curvature.

Legend: N images, D feature dimensions, C classes, M principal axes, A = M + 1 axes with the intercept.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import EvaluationFailed
from app.scoring.contract import Result
from app.scoring.fitting.lbfgs import minimize
from app.scoring.panel import Panel

_Array = NDArray[np.float64]

# The publication tries widths 10, 1 and 0.1 of the prior, each with variances of 10 and 100 times the width over D.
# This is the first with the smaller variance: prior precision 1 / (N PRIOR_WIDTH), variance VARIANCE / D.
PRIOR_WIDTH = 10.0
VARIANCE = 100.0
_TOLERANCES = (1e-3, 1e-5, 1e-8)  # nats, of the quasi-Newton steps; weights are rescaled in between
_GRADIENT = 1e-11  # of the Newton steps that follow: the curvature would magnify what is left of the loss
_NEWTON_STEPS, _CONJUGATE_STEPS = 8, 200
_LARGEST_SCALE = 1e6  # mean squared length of the features, beyond which the fit is as good as unpenalised


def pactran_gauss(panel: Panel) -> Result:
    """Return minus the bound on the mean loss of a linear classifier, in nats per image.

    The bound is L + v C / (2 s N) log(H s N / (D C)): L the smallest mean cross-entropy + |W|^2 / (2 s N) of a softmax
    classifier on centred features, H the sum of the diagonal of its Hessian as the published code takes it
    (cross-entropy summed over images, plus the prior's precision once for each weight), s = 10 and v = 100. Weights
    start at zero, where the published code draws them; the loss is convex, so the minimum is the same.

    Source: Ding et al. 2022, arXiv:2203.05126, the metric with a Gaussian prior.

    Raises:
        EvaluationFailed: ``features_too_large``: the features are of a size at which the penalty no longer counts.
    """
    n, dimensions, classes = panel.num_images, panel.num_dimensions, panel.num_classes
    mean_square = float(panel.squared_norms_N.mean())
    log_size = math.log(mean_square) + 2 * math.log(panel.scale) if mean_square > 0 else -math.inf
    if log_size > 2 * math.log(_LARGEST_SCALE):
        raise EvaluationFailed(
            "features_too_large",
            f"The features' root mean square length is about e^{log_size / 2:.0f}; this score is defined for features"
            " of ordinary size.",
            param="features",
            hint="Divide the features by a constant, the same for all models, or leave this score out.",
        )
    scale = panel.scale if log_size > -600 else 0.0
    precision = 1 / (PRIOR_WIDTH * n)
    loss, probability_NC, converged = _fit(_with_one(panel, scale), panel.one_hot_NC, precision)
    curvature_NC = probability_NC * (1 - probability_NC)
    squares_N = panel.squared_norms_N * scale**2
    hessian = float(((squares_N + 1) @ curvature_NC).sum()) + classes * dimensions * precision
    spread = 0.5 * VARIANCE * classes * precision * math.log(hessian / (precision * dimensions * classes))
    warnings = ("constant_features",) * panel.constant + ("not_converged",) * (not converged)
    return Result(value=-(loss + spread), warnings=warnings)


class _Loss:
    """The penalised loss as a function of weights divided by ``length_A1``.

    Weights are rescaled by the curvature expected of a given mean of p (1 - p): along principal axes the Hessian is
    close to diagonal, and the way to the minimum does not depend on how the features were rotated.
    """

    def __init__(self, with_one_NA: _Array, labels_NC: _Array, precision: float, uncertainty: float) -> None:
        n = len(labels_NC)
        penalty_A1 = np.full((with_one_NA.shape[1], 1), precision)
        penalty_A1[-1] = 0.0
        variance_A1 = np.einsum("na,na->a", with_one_NA, with_one_NA)[:, None] / n
        self.length_A1 = 1 / np.sqrt(variance_A1 * uncertainty + penalty_A1)
        self._shrink_A1 = penalty_A1 * self.length_A1**2
        self._with_one_NA, self._labels_NC = with_one_NA, labels_NC

    def log_probabilities(self, weights_AC: _Array) -> _Array:
        logits_NC = self._with_one_NA @ (self.length_A1 * weights_AC)
        logits_NC -= logits_NC.max(axis=1, keepdims=True)
        return np.asarray(logits_NC - np.log(np.exp(logits_NC).sum(axis=1, keepdims=True)))

    def with_gradient(self, flat: _Array) -> tuple[float, _Array]:
        n, classes = self._labels_NC.shape
        weights_AC = flat.reshape(-1, classes)
        log_NC = self.log_probabilities(weights_AC)
        loss = 0.5 * float((self._shrink_A1 * weights_AC**2).sum())
        loss -= float(np.einsum("nc,nc->", log_NC, self._labels_NC)) / n
        gradient_AC = self.length_A1 * (self._with_one_NA.T @ ((np.exp(log_NC) - self._labels_NC) / n))
        return loss, (gradient_AC + self._shrink_A1 * weights_AC).ravel()

    def hessian_times(self, probability_NC: _Array, direction_AC: _Array) -> _Array:
        change_NC = probability_NC * (self._with_one_NA @ (self.length_A1 * direction_AC))
        change_NC -= probability_NC * change_NC.sum(axis=1, keepdims=True)
        image_AC = self.length_A1 * (self._with_one_NA.T @ change_NC)
        return np.asarray(image_AC / len(change_NC) + self._shrink_A1 * direction_AC)


def _with_one(panel: Panel, scale: float) -> _Array:
    """Return the features along their principal axes, and ones beside them."""
    axes = panel.principal_NM.shape[1]
    with_one_NA = panel.workspace.matrix(panel.num_images, axes + 1)
    np.multiply(panel.principal_NM, scale, out=with_one_NA[:, :axes])
    with_one_NA[:, axes] = 1.0
    return with_one_NA


def _fit(with_one_NA: _Array, labels_NC: _Array, precision: float) -> tuple[float, _Array, bool]:
    """Return (penalised loss, probabilities, whether the minimum was reached)."""
    classes = labels_NC.shape[1]
    weights_AC = np.zeros((with_one_NA.shape[1], classes))
    uncertainty = (1 - 1 / classes) / classes
    for tolerance in _TOLERANCES:
        objective = _Loss(with_one_NA, labels_NC, precision, uncertainty)
        start = (weights_AC / objective.length_A1).ravel()
        flat, _ = minimize(objective.with_gradient, start, tolerance=tolerance, max_iterations=500)
        weights_AC = flat.reshape(-1, classes) * objective.length_A1
        probability_NC = np.exp(objective.log_probabilities(flat.reshape(-1, classes)))
        uncertainty = max(float((probability_NC * (1 - probability_NC)).mean()), 1e-9)
    loss, gradient = objective.with_gradient(flat)
    for _ in range(_NEWTON_STEPS):
        if np.abs(gradient).max() <= _GRADIENT:
            break
        step_AC = _conjugate_gradients(partial(objective.hessian_times, probability_NC), -gradient.reshape(-1, classes))
        moved = flat + step_AC.ravel()
        next_loss, next_gradient = objective.with_gradient(moved)
        if next_loss > loss + _TOLERANCES[-1]:
            break
        flat, loss, gradient = moved, next_loss, next_gradient
        probability_NC = np.exp(objective.log_probabilities(flat.reshape(-1, classes)))
    return loss, probability_NC, bool(np.abs(gradient).max() <= 1e3 * _GRADIENT)


def _conjugate_gradients(times: Callable[[_Array], _Array], right_AC: _Array) -> _Array:
    """Return an approximate solution of a positive semi-definite system."""
    solution_AC, residual_AC = np.zeros_like(right_AC), right_AC
    direction_AC, squared = residual_AC, float((residual_AC**2).sum())
    enough = 1e-6 * squared
    for _ in range(_CONJUGATE_STEPS):
        image_AC = times(direction_AC)
        curvature = float((direction_AC * image_AC).sum())
        if squared <= enough or curvature <= 0.0:
            break
        solution_AC = solution_AC + squared / curvature * direction_AC
        residual_AC = residual_AC - squared / curvature * image_AC
        squared, before = float((residual_AC**2).sum()), squared
        direction_AC = residual_AC + squared / before * direction_AC
    return solution_AC
