"""Self-challenging Fisher discriminant analysis: how probable a class stays once classes are pushed together.

Legend: N images, D feature dimensions, C classes, K coordinates, M = min(N, D), B images of a block.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.blas import dsyrk
from scipy.sparse.linalg import LinearOperator, eigsh

from app.scoring.contract import Result
from app.scoring.panel import Panel

_Array = NDArray[np.float64]

_LEAST_INTENSITY = 1e-10
_RATE = 5.0
_ROUNDING = 1e-13  # smallest addition to the covariance, as a share of the features' variance
_BLOCK = 256  # images mixed at a time
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
    value = self_challenged(panel, Points.of(panel), intensity, softened=softened)
    return Result(value=value, warnings=warnings)


@dataclass(frozen=True, eq=False)
class Points:
    """Centred coordinates of the images: ``basis_NK``, times ``lengths_K`` where there are any."""

    basis_NK: _Array
    lengths_K: _Array | None = None

    @classmethod
    def of(cls, panel: Panel) -> "Points":
        """Return the features in coordinates that need no further decomposition."""
        if panel.wide and panel.decomposed and not panel.constant:
            values_M, vectors_MM = panel.spectrum
            rank = int((values_M > len(values_M) * np.finfo(np.float64).eps * values_M[0]).sum())
            return cls(vectors_MM[:, :rank], np.sqrt(values_M[:rank]))
        return cls(panel.coordinates_NK)

    def rows(self, start: int, stop: int) -> _Array:
        """Return the coordinates of some images."""
        rows_BK = self.basis_NK[start:stop]
        return rows_BK if self.lengths_K is None else rows_BK * self.lengths_K

    def times(self, weights_KC: _Array) -> _Array:
        """Return the coordinates times weights."""
        return self.basis_NK @ (weights_KC if self.lengths_K is None else weights_KC * self.lengths_K[:, None])

    def sums(self, weights_NC: _Array) -> _Array:
        """Return the weighted sums of the images."""
        sums_CK = weights_NC.T @ self.basis_NK
        return sums_CK if self.lengths_K is None else sums_CK * self.lengths_K

    def scatter_KK(self, panel: Panel) -> _Array:
        """Return the scatter matrix as a new array in Fortran's order, to be overwritten."""
        if self.lengths_K is not None:
            return np.asfortranarray(np.diag(self.lengths_K**2))
        known = self.basis_NK is panel.centred_ND
        return (panel.scatter_MM.copy() if known else panel.products.scatter(self.basis_NK)).T


def self_challenged(panel: Panel, points: Points, intensity: float, *, softened: bool) -> float:
    """Return the mean true-class probability after two passes over features that may differ from the panel's own."""
    images_N, labels_N, n_C = np.arange(panel.num_images), panel.labels_N, panel.counts_C[:, None]
    means_CK = points.sums(panel.one_hot_NC) / n_C
    posterior_NC = np.exp(_first_pass(panel, points, means_CK, intensity))
    if softened:
        np.exp(posterior_NC, out=posterior_NC)
        posterior_NC /= posterior_NC.sum(axis=1, keepdims=True)
    own_N1 = posterior_NC[images_N, labels_N][:, None]
    others_CK = (means_CK.sum(axis=0) - means_CK) / (panel.num_classes - 1)

    # The mixed features own x + (1 - own) others are never formed as a whole.
    moved_C1 = (panel.one_hot_NC.T @ (1 - own_N1)) / n_C
    mixed_CK = points.sums(panel.one_hot_NC * own_N1) / n_C + moved_C1 * others_CK
    within_KK = np.zeros((len(means_CK.T),) * 2, order="F")
    for start in range(0, panel.num_images, _BLOCK):
        label_B, own_B1 = labels_N[start : start + _BLOCK], own_N1[start : start + _BLOCK]
        residual_BK = own_B1 * points.rows(start, start + _BLOCK)
        residual_BK += (1 - own_B1) * others_CK[label_B] - mixed_CK[label_B]
        within_KK = dsyrk(1.0, residual_BK.T, beta=1.0, c=within_KK, lower=1, overwrite_c=1)
    mean_K = mixed_CK.T @ panel.counts_C / panel.num_images
    second = _fit(panel, within_KK, mixed_CK - mean_K, intensity)
    projected_NC = own_N1 * points.times(second.weights_KC) - mean_K @ second.weights_KC
    projected_NC += (1 - own_N1) * (others_CK @ second.weights_KC)[labels_N]
    return float(np.exp(second.log_posteriors(projected_NC)[images_N, labels_N]).mean())


def published_intensity(panel: Panel) -> float:
    """Return max(exp(-5 largest within-class variance), 1e-10), in the features' own unit."""
    exponent = _RATE * _largest_within_variance(panel)
    # The square of the unit may overflow; beyond e^5 the intensity is at its floor anyway.
    log_exponent = math.log(exponent) + 2 * math.log(panel.scale) if exponent > 0 else -math.inf
    return max(math.exp(-math.exp(min(log_exponent, 5.0))), _LEAST_INTENSITY)


def log_posteriors(panel: Panel, points: Points, intensity: float) -> _Array:
    """Return log posteriors (N x C) of normal classes with one shrunken covariance, fitted to the same images."""
    return _first_pass(panel, points, points.sums(panel.one_hot_NC) / panel.counts_C[:, None], intensity)


def _first_pass(panel: Panel, points: Points, means_CK: _Array, intensity: float) -> _Array:
    scaled_CK = means_CK * np.sqrt(panel.counts_C)[:, None]
    within_KK = dsyrk(-1.0, scaled_CK.T, beta=1.0, c=points.scatter_KK(panel), lower=1, overwrite_c=1)
    fit = _fit(panel, within_KK, means_CK, intensity)
    return fit.log_posteriors(points.times(fit.weights_KC))


@dataclass(frozen=True, eq=False)
class _Discriminants:
    weights_KC: _Array
    offsets_C: _Array

    def log_posteriors(self, projected_NC: _Array) -> _Array:
        """Return the log posteriors of centred features times the weights."""
        logits_NC = projected_NC + self.offsets_C
        logits_NC -= logits_NC.max(axis=1, keepdims=True)
        logits_NC -= np.log(np.exp(logits_NC).sum(axis=1, keepdims=True))
        return logits_NC


def _fit(panel: Panel, within_KK: _Array, means_CK: _Array, intensity: float) -> _Discriminants:
    """Return the discriminants of class means less the mean of all; the scatter within is overwritten.

    All generalised eigenvectors together are a square root of the inverse covariance, so one Cholesky factor replaces
    them.
    """
    n, n_C = panel.num_images, panel.counts_C.astype(np.float64)
    within = max(float(np.trace(within_KK)), 0.0)
    total = within + float(n_C @ np.square(means_CK).sum(axis=1))
    added = max(intensity * within / (n * panel.num_dimensions), _ROUNDING * total / n)
    within_KK *= (1 - intensity) / n
    within_KK[np.diag_indices_from(within_KK)] += added or 1.0
    lower_KK = cholesky(within_KK, lower=True, overwrite_a=True, check_finite=False)
    means_KC = solve_triangular(lower_KK, means_CK.T, lower=True, check_finite=False)
    weights_KC = solve_triangular(lower_KK, means_KC, lower=True, trans="T", check_finite=False)
    return _Discriminants(weights_KC, np.log(n_C / n) - 0.5 * np.einsum("kc,kc->c", means_KC, means_KC))


def _largest_within_variance(panel: Panel) -> float:
    """Return the largest eigenvalue of the within-class covariance, in the panel's units."""
    size, n = len(panel.scatter_MM), panel.num_images
    if size <= _SMALL:
        return max(float(np.linalg.eigvalsh(panel.within_scatter_KK)[-1]) / n, 0.0)
    scaled_CD = panel.class_sums_CD / np.sqrt(panel.counts_C)[:, None]

    def within_times(columns: _Array) -> _Array:
        vector_M = columns.reshape(size)
        if not panel.wide:
            return np.asarray(panel.scatter_MM @ vector_M - scaled_CD.T @ (scaled_CD @ vector_M))
        return _less_class_mean(panel, panel.scatter_MM @ _less_class_mean(panel, vector_M))

    within = LinearOperator((size, size), matvec=within_times, dtype=np.float64)
    start_M = np.random.default_rng(0).normal(size=size)
    return max(float(eigsh(within, k=1, which="LA", v0=start_M, return_eigenvectors=False)[0]) / n, 0.0)


def _less_class_mean(panel: Panel, values_N: _Array) -> _Array:
    means_C = np.bincount(panel.labels_N, values_N) / panel.counts_C
    return np.asarray(values_N - means_C[panel.labels_N])
