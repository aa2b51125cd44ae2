"""Neural collapse: how far features are from the state that fine-tuning brings them to.

Legend: N images, C classes, K coordinates, P <= 64 principal components, R <= C - 1 discriminant directions.

The published score is the sum of three parts, each scaled to 0..1 over the candidates: the first two and, with the
other sign, the third. Each is a score of its own here; ``ncti`` combines them.
"""

import math
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import eigsh

from app.scoring.contract import Result
from app.scoring.panel import Panel

_Array = NDArray[np.float64]

_COMPONENTS = 64
_LEADING = 32  # components whose variance decides how much the covariance is shrunk
_LEAST_INTENSITY = 1e-10
_NEGLIGIBLE = 1e-10  # share of the largest variance below which a direction is rounding noise


@dataclass(frozen=True, eq=False)
class _Collapse:
    """Features along their discriminant directions, centred, and the posteriors of all classes."""

    projected_NR: _Array
    posterior_NC: _Array


_COLLAPSES: WeakKeyDictionary[Panel, _Collapse] = WeakKeyDictionary()


def ncti_spread(panel: Panel) -> Result:
    """Return the nuclear norm of the centred features along their discriminant directions.

    Source: Wang et al. 2023, "How far pre-trained models are from neural collapse on the target dataset informs their
    transferability", ICCV, term S_vc.
    """
    return _result(panel, float(np.linalg.svd(_collapse(panel).projected_NR, compute_uv=False).sum()))


def ncti_posterior(panel: Panel) -> Result:
    """Return the mean posterior of the true class under linear discriminant analysis of the same images.

    Source: Wang et al. 2023, term S_ncc.
    """
    own_N = _collapse(panel).posterior_NC[np.arange(panel.num_images), panel.labels_N]
    return _result(panel, float(own_N.mean()))


def ncti_compactness(panel: Panel) -> Result:
    """Return minus the log of the classes' summed nuclear norms, each of the posteriors of a class's images.

    Source: Wang et al. 2023, term S_se, negated: the published sum subtracts it.
    """
    posterior_NC = _collapse(panel).posterior_NC
    norms = [
        np.linalg.svd(posterior_NC[panel.labels_N == label], compute_uv=False).sum()
        for label in range(panel.num_classes)
    ]
    return _result(panel, -math.log(float(np.sum(norms))))


def _result(panel: Panel, value: float) -> Result:
    return Result(value=value, warnings=("constant_features",) * panel.constant)


def _collapse(panel: Panel) -> _Collapse:
    if panel not in _COLLAPSES:
        _COLLAPSES[panel] = _collapse_anew(panel)
    return _COLLAPSES[panel]


def _collapse_anew(panel: Panel) -> _Collapse:
    n, n_C = panel.num_images, panel.counts_C.astype(np.float64)
    if panel.constant:
        return _Collapse(np.zeros((n, 1)), np.tile(n_C / n, (n, 1)))
    component_NP, variance_P = _principal_components(panel)
    sums_CP = panel.one_hot_NC.T @ component_NP
    scaled_CP = sums_CP / np.sqrt(n_C)[:, None]
    within_PP = np.diag(variance_P * (n - 1)) - scaled_CP.T @ scaled_CP
    intensity = _intensity(variance_P, panel.scale)
    if intensity <= _LEAST_INTENSITY:
        intensity = 0.0
    covariance_PP = within_PP * ((1 - intensity) / n)
    mean_variance = max(float(np.trace(within_PP)), 0.0) / (n * len(within_PP))
    covariance_PP.flat[:: len(within_PP) + 1] += intensity * mean_variance
    values_P, vectors_PP = np.linalg.eigh(covariance_PP)
    floor = _NEGLIGIBLE * float(variance_P[0])
    if values_P[-1] <= floor:
        whitening_PP = np.eye(len(values_P)) / math.sqrt(floor)  # every class is a point
    else:
        kept_P = values_P > max(_NEGLIGIBLE * values_P[-1], 1e-4 * floor)
        whitening_PP = vectors_PP[:, kept_P] / np.sqrt(values_P[kept_P])
    between_PP = scaled_CP.T @ scaled_CP * ((1 - intensity) / n)
    # The published code shrinks the total covariance too; what it takes for the covariance of the means is the rest.
    between_PP.flat[:: len(within_PP) + 1] += (
        intensity * float(np.einsum("cp,cp->", scaled_CP, scaled_CP)) / (n * len(within_PP))
    )
    strengths, axes = np.linalg.eigh(whitening_PP.T @ between_PP @ whitening_PP)
    kept = np.flatnonzero(strengths > 1e-8 * strengths[-1])[::-1][: panel.num_classes - 1]
    whitened_NP = component_NP @ whitening_PP
    means_CP = (panel.one_hot_NC.T @ whitened_NP) / n_C[:, None]
    logits_NC = whitened_NP @ means_CP.T - 0.5 * (means_CP**2).sum(axis=1) + np.log(n_C / n)
    logits_NC -= logits_NC.max(axis=1, keepdims=True)
    posterior_NC = np.exp(logits_NC)
    return _Collapse(whitened_NP @ axes[:, kept], posterior_NC / posterior_NC.sum(axis=1, keepdims=True))


def _intensity(variance_P: _Array, scale: float) -> float:
    """Return exp(-variance of the leading components in the features' own unit)."""
    log_variance = math.log(float(variance_P[:_LEADING].sum())) + 2 * math.log(scale)
    return math.exp(-math.exp(min(log_variance, 5.0)))


def _principal_components(panel: Panel) -> tuple[_Array, _Array]:
    """Return (coordinates along the leading principal axes, their variances), largest first."""
    scatter_KK = panel.coordinate_scatter_KK
    if len(scatter_KK) > 4 * _COMPONENTS:
        start_K = np.random.default_rng(0).normal(size=len(scatter_KK))
        values_P, vectors_KP = eigsh(scatter_KK, k=_COMPONENTS, which="LA", v0=start_K)
    else:
        values_P, vectors_KP = np.linalg.eigh(scatter_KK)
    order_P = np.argsort(values_P)[::-1][:_COMPONENTS]
    order_P = order_P[values_P[order_P] > _NEGLIGIBLE * values_P[order_P[0]]]
    return panel.coordinates_NK @ vectors_KP[:, order_P], values_P[order_P] / (panel.num_images - 1)
