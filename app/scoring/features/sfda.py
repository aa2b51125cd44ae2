"""Self-challenging Fisher discriminant analysis: how probable a class stays once classes are pushed together.

Legend: N images, D feature dimensions, C classes, K coordinates.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.sparse.linalg import eigsh

from app.scoring.contract import Result
from app.scoring.panel import Panel

_Array = NDArray[np.float64]

_LEAST_INTENSITY = 1e-10
_RATE = 5.0
_ROUNDING = 1e-13  # smallest addition to the covariance, as a share of the features' variance
_SMALL = 32  # matrices up to this size are decomposed in full


def sfda(panel: Panel) -> Result:
    """Return the mean probability of the true class in the second of two discriminant analyses, as published.

    The within-class covariance S is shrunk by a = max(exp(-5 largest eigenvalue of S), 1e-10) towards its mean
    variance, so that the value depends on the unit of the features. The authors' code estimates the eigenvalue by three
    power steps; here it is exact. Between the passes each image moves towards the mean of the other classes' means, by
    one minus the softmax, at its own class, of the first pass's probabilities. The softmax of probabilities is the
    authors'; it keeps an image's own share below e / (e + C - 1).

    Source: Shao et al. 2022, arXiv:2207.03036: regularised FDA, ConfMix, and FDA again.
    """
    return _result(panel, published_intensity(panel), softened=True)


def sfda_scalefree(panel: Panel) -> Result:
    """Return the same for features divided by their root mean square length, with probabilities as they are.

    So the value does not depend on the unit of the features, and images move by one minus their class's probability.

    Source: Shao et al. 2022, arXiv:2207.03036, changed as said.
    """
    if panel.constant:
        return _result(panel, 1.0, softened=False)
    variance = _largest_within_variance(panel) / float(panel.squared_norms_N.mean())
    return _result(panel, math.exp(-_RATE * variance), softened=False)


def _result(panel: Panel, intensity: float, *, softened: bool) -> Result:
    warnings = ("constant_features",) * panel.constant
    if not panel.constant and panel.num_images - panel.num_classes < panel.num_dimensions:
        warnings += ("fewer_images_than_dimensions",)
    value = self_challenged(panel, panel.coordinates_NK, intensity, softened=softened)
    return Result(value=value, warnings=warnings)


def self_challenged(panel: Panel, x_NK: _Array, intensity: float, *, softened: bool) -> float:
    """Return the mean true-class probability after two passes over features that may differ from the panel's own."""
    images_N, labels_N = np.arange(panel.num_images), panel.labels_N
    posterior_NC = np.exp(log_posteriors(panel, x_NK, intensity))
    if softened:
        posterior_NC = np.exp(posterior_NC)
        posterior_NC /= posterior_NC.sum(axis=1, keepdims=True)
    means_CK = (panel.one_hot_NC.T @ x_NK) / panel.counts_C[:, None]
    others_CK = (means_CK.sum(axis=0) - means_CK) / (panel.num_classes - 1)
    own_N1 = posterior_NC[images_N, labels_N][:, None]
    mixed_NK = own_N1 * x_NK + (1 - own_N1) * others_CK[labels_N]
    return float(np.exp(log_posteriors(panel, mixed_NK, intensity)[images_N, labels_N]).mean())


def published_intensity(panel: Panel) -> float:
    """Return max(exp(-5 largest within-class variance), 1e-10), in the features' own unit."""
    exponent = _RATE * _largest_within_variance(panel)
    # The square of the unit may overflow; beyond e^5 the intensity is at its floor anyway.
    log_exponent = math.log(exponent) + 2 * math.log(panel.scale) if exponent > 0 else -math.inf
    return max(math.exp(-math.exp(min(log_exponent, 5.0))), _LEAST_INTENSITY)


def log_posteriors(panel: Panel, x_NK: _Array, intensity: float) -> _Array:
    """Return log posteriors (N x C) of normal classes with one shrunken covariance, fitted to the same images.

    All generalised eigenvectors together are a square root of the inverse covariance, so one Cholesky factor replaces
    them.
    """
    n, n_C = panel.num_images, panel.counts_C.astype(np.float64)
    x_NK = x_NK - x_NK.mean(axis=0)
    sums_CK = panel.one_hot_NC.T @ x_NK
    scaled_CK = sums_CK / np.sqrt(n_C)[:, None]
    total_KK = x_NK.T @ x_NK
    covariance_KK = (total_KK - scaled_CK.T @ scaled_CK) / n
    mean_variance = max(float(np.trace(covariance_KK)), 0.0) / panel.num_dimensions
    added = max(intensity * mean_variance, _ROUNDING * float(np.trace(total_KK)) / n)
    covariance_KK *= 1 - intensity
    covariance_KK.flat[:: len(covariance_KK) + 1] += added or 1.0
    lower_KK = cholesky(covariance_KK, lower=True)
    means_KC = solve_triangular(lower_KK, (sums_CK / n_C[:, None]).T, lower=True)
    weights_KC = solve_triangular(lower_KK, means_KC, lower=True, trans="T")
    logits_NC = x_NK @ weights_KC - 0.5 * np.einsum("kc,kc->c", means_KC, means_KC) + np.log(n_C / n)
    logits_NC -= logits_NC.max(axis=1, keepdims=True)
    return np.asarray(logits_NC - np.log(np.exp(logits_NC).sum(axis=1, keepdims=True)))


def _largest_within_variance(panel: Panel) -> float:
    """Return the largest eigenvalue of the within-class covariance, in the panel's units."""
    covariance_KK = panel.within_scatter_KK / panel.num_images
    if len(covariance_KK) <= _SMALL:
        return max(float(np.linalg.eigvalsh(covariance_KK)[-1]), 0.0)
    start_K = np.random.default_rng(0).normal(size=len(covariance_KK))
    return max(float(eigsh(covariance_KK, k=1, which="LA", v0=start_K, return_eigenvectors=False)[0]), 0.0)
