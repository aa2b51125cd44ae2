"""Linear discriminant analysis with a shrunken covariance, leave-one-out.

Legend: N images, B of them in a block, D feature dimensions, C classes, M principal axes, K coordinates.

Leaving an image out moves its class mean and takes one rank-one term from the within-class scatter; by Sherman and
Morrison all N discriminants follow from inner products in the metric of the whole scatter's inverse. Nothing is fitted
more than once. The within-class scatter is the total one, diagonal in the principal axes, less a term of rank C.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from app.domain.ranking import accuracy_stderr
from app.scoring.contract import Result
from app.scoring.features.held_out import held_out
from app.scoring.panel import Panel

_Array = NDArray[np.float64]

_TIE = 1e-9  # log posteriors closer than this are equal: rounding must not decide
_LEAST, _MOST = 1e-6, 1 - 1e-9  # intensities short of 0 and 1 keep the covariance, and its inverse's scale, finite
_ENOUGH = 1e-4  # share of a difference in what it is taken from that leaves it twelve digits
_BLOCK = 256  # images at a time
_NEGLIGIBLE = 1e-11  # share of the total scatter below which the within-class scatter is rounding noise


def lda(panel: Panel) -> Result:
    """Return the leave-one-out accuracy of linear discriminant analysis.

    The pooled within-class covariance (divided by the number of images) is shrunk towards its mean variance times the
    identity, by the intensity of Ledoit and Wolf; intensity and mean variance are estimated once, on all images. Class
    shares, means and covariance are those of the other images. A tie counts as wrong.

    Source: Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4, Lemmas 3.2 to 3.4.

    Raises:
        EvaluationFailed: ``no_held_out_images``: no class has two images.
    """
    held_out_N = held_out(panel)
    log_posterior_NC = _log_posteriors(panel)
    leading_NC = log_posterior_NC > log_posterior_NC.max(axis=1, keepdims=True) - _TIE
    predicted_N = np.where((leading_NC.sum(axis=1) == 1) & held_out_N, log_posterior_NC.argmax(axis=1), -1)
    right_N = predicted_N == panel.labels_N
    total, right = int(held_out_N.sum()), int(right_N.sum())
    own_N = log_posterior_NC[np.arange(panel.num_images), panel.labels_N]
    return Result(
        value=right / total,
        stderr=accuracy_stderr(right, total),
        warnings=_warnings(panel),
        influence_N=np.where(held_out_N, (right_N - right / total) / total, 0.0),
        per_image_N=right_N,
        predicted_N=predicted_N,
        held_out_N=held_out_N,
        log_likelihood_N=np.where(held_out_N, own_N, 0.0),
    )


def lda_likelihood(panel: Panel) -> Result:
    """Return the mean log posterior of the true class in nats, leave-one-out, of the same model as ``lda``.

    The influence is that of judging an image once more, not of training on it once more.

    Raises:
        EvaluationFailed: ``no_held_out_images``: no class has two images.
    """
    held_out_N = held_out(panel)
    own_N = _log_posteriors(panel)[np.arange(panel.num_images), panel.labels_N]
    own_N = np.where(held_out_N, own_N, 0.0)
    total = int(held_out_N.sum())
    value = float(own_N.sum()) / total
    return Result(
        value=value,
        warnings=_warnings(panel),
        influence_N=np.where(held_out_N, (own_N - value) / total, 0.0),
        log_likelihood_N=own_N,
    )


def _warnings(panel: Panel) -> tuple[str, ...]:
    return ("constant_features",) * panel.constant + ("singleton_class",) * bool((panel.counts_C == 1).any())


@dataclass(frozen=True)
class Shrinkage:
    """A covariance (1 - intensity) S / N + intensity * variance * I, S the within-class scatter."""

    intensity: float
    variance: float


def ledoit_wolf(panel: Panel) -> Shrinkage:
    """Return the Ledoit-Wolf shrinkage of the pooled within-class covariance over all D dimensions.

    Source: Ledoit and Wolf 2004, Lemma 3.2 to 3.4, of the features minus their class means.
    """
    n, dimensions = panel.num_images, panel.num_dimensions
    total = float(panel.squared_norms_N.sum())
    squares_N = panel.residual_norms_N
    trace = float(squares_N.sum())
    if trace <= _NEGLIGIBLE * total:
        return Shrinkage(_MOST, _NEGLIGIBLE * total / (n * dimensions) or 1.0)
    energy = _within_energy(panel) / n**2
    variance = trace / (n * dimensions)
    distance = energy - dimensions * variance**2
    noise = (float((squares_N**2).sum()) / n - energy) / n
    intensity = 1.0 if noise >= distance else noise / distance
    return Shrinkage(min(max(intensity, _LEAST), _MOST), variance)


def _within_energy(panel: Panel) -> float:
    """Return the sum of the squared entries of the within-class scatter."""
    scaled_CD = panel.class_sums_CD / np.sqrt(panel.counts_C)[:, None]
    between_CC, along_NC = scaled_CD @ scaled_CD.T, panel.centred_ND @ scaled_CD.T
    total = float(panel.gram_energy_N.sum())
    energy = total - 2 * float(np.square(along_NC).sum()) + float(np.square(between_CC).sum())
    if energy > _ENOUGH * total:
        return energy
    return float(np.square(panel.within_scatter_KK).sum())


def _log_posteriors(panel: Panel) -> _Array:
    """Return the leave-one-out log posterior of every class (N x C); -inf where only the left-out image is of it."""
    n, n_C, labels_N = panel.num_images, panel.counts_C.astype(np.float64), panel.labels_N
    images_N = np.arange(n)
    others_NC = np.tile(n_C, (n, 1))
    others_NC[images_N, labels_N] -= 1
    log_prior_NC = np.log(np.maximum(others_NC, 0.5) / (n - 1))
    logits_NC = log_prior_NC - 0.5 * _squared_distances(panel)
    logits_NC[others_NC == 0] = -np.inf
    logits_NC -= logits_NC.max(axis=1, keepdims=True)
    return np.asarray(logits_NC - np.log(np.exp(logits_NC).sum(axis=1, keepdims=True)))


def _squared_distances(panel: Panel) -> _Array:
    """Return Mahalanobis distances of left-out images to the class means of the others (N x C)."""
    if panel.constant:
        return np.zeros((panel.num_images, panel.num_classes))
    n, n_C, labels_N = panel.num_images, panel.counts_C.astype(np.float64), panel.labels_N
    images_N = np.arange(n)
    shrinkage = ledoit_wolf(panel)
    factor = (n - 1) / (1 - shrinkage.intensity)
    penalty = max(shrinkage.intensity * shrinkage.variance * factor, _NEGLIGIBLE * float(panel.squared_norms_N.sum()))
    leverage_N, along_NC, between_CC = _by_total_scatter(panel, penalty) or _by_within_scatter(panel, penalty)
    apart_CC = np.diag(between_CC)[:, None] + np.diag(between_CC) - 2 * between_CC
    towards_NC = along_NC[images_N, labels_N][:, None] - along_NC  # z P (m_c - m_k)
    distance_NC = np.maximum(leverage_N[:, None] + 2 * towards_NC + apart_CC[labels_N], 0.0)
    own_n_N = n_C[labels_N]
    growth_N = np.divide(own_n_N, own_n_N - 1, out=np.zeros(n), where=own_n_N > 1)
    within = shrinkage.variance * n * panel.num_dimensions
    kept_N = np.maximum(1 - growth_N * leverage_N, penalty / (penalty + within) * 1e-3)
    distance_NC += (growth_N / kept_N)[:, None] * (leverage_N[:, None] + towards_NC) ** 2
    distance_NC[images_N, labels_N] = growth_N**2 * leverage_N / kept_N
    return np.asarray(factor * distance_NC)


def _by_total_scatter(panel: Panel, penalty: float) -> tuple[_Array, _Array, _Array] | None:
    """Return inner products in the metric of the penalised within-class scatter's inverse; None if digits were lost.

    With z an image minus the mean m of its class: (z P z' (N), z P m' (N x C), m P m' (C x C)). P follows by Woodbury's
    identity from the spectrum of the total scatter.
    """
    if panel.num_classes > min(panel.num_images, panel.num_dimensions) // 2:
        return None
    n_C, inverse_M = panel.counts_C, 1 / (panel.spectrum[0] + penalty)
    means_CM = _principal_means(panel)
    weighted_CM = means_CM * inverse_M
    between_CC = weighted_CM @ means_CM.T
    root_C = np.sqrt(n_C)
    values_C, vectors_CC = np.linalg.eigh(np.eye(len(n_C)) - root_C[:, None] * between_CC * root_C)
    if values_C[0] < _ENOUGH:
        return None
    lifts_CC = root_C[:, None] * vectors_CC / np.sqrt(values_C)
    # Differences first: an image close to its class mean must not lose its distance to rounding.
    along_NC, leverage_N = np.empty((panel.num_images, len(n_C))), np.empty(panel.num_images)
    for block in _blocks(panel):
        own_BM = panel.principal_rows(block) - means_CM[panel.labels_N[block]]
        along_NC[block] = own_BM @ weighted_CM.T
        leverage_N[block] = np.square(own_BM, out=own_BM) @ inverse_M
    lifted_NC, lifted_CC = along_NC @ lifts_CC, between_CC @ lifts_CC
    return (
        leverage_N + np.einsum("nc,nc->n", lifted_NC, lifted_NC),
        along_NC + lifted_NC @ lifted_CC.T,
        between_CC + lifted_CC @ lifted_CC.T,
    )


def _by_within_scatter(panel: Panel, penalty: float) -> tuple[_Array, _Array, _Array]:
    """Return the same from a Cholesky factor of the within-class scatter."""
    within_KK = panel.within_scatter_KK
    lower_KK = cholesky(within_KK + penalty * np.eye(len(within_KK)), lower=True)
    means_CK = panel.coordinate_sums_CK / panel.counts_C[:, None]
    whitened_KC = solve_triangular(lower_KK, means_CK.T, lower=True)
    along_NC, leverage_N = np.empty((panel.num_images, panel.num_classes)), np.empty(panel.num_images)
    for part in panel.parts(means_CK.shape[1]):
        own_BK = panel.coordinates_NK[part] - means_CK[panel.labels_N[part]]
        own_KB = solve_triangular(lower_KK, own_BK.T, lower=True, overwrite_b=True)
        along_NC[part], leverage_N[part] = own_KB.T @ whitened_KC, np.einsum("kb,kb->b", own_KB, own_KB)
    return leverage_N, along_NC, whitened_KC.T @ whitened_KC


def _principal_means(panel: Panel) -> _Array:
    """Return the class means along the principal axes (C x M)."""
    values_M, vectors_MM = panel.spectrum
    if panel.wide:
        sums_CM = panel.one_hot_NC.T @ vectors_MM * np.sqrt(values_M)
    else:
        sums_CM = panel.one_hot_NC.T @ panel.principal_NM
    return np.asarray(sums_CM / panel.counts_C[:, None])


def _blocks(panel: Panel) -> Iterator[slice]:
    for start in range(0, panel.num_images, _BLOCK):
        yield slice(start, min(start + _BLOCK, panel.num_images))
