"""GBC: how much the classes, each taken for a Gaussian, overlap.

Legend: N images, D feature dimensions, C classes, K principal dimensions, B classes of a block, O classes they are
compared with, P pairs, F factors of J products.

A score is minus the sum of exp(-B) over ordered pairs of different classes, B the Bhattacharyya distance

    B = 1/8 (m - m')^T V^-1 (m - m') + 1/2 log( det V / sqrt(det V_c det V_c') ),   V = (V_c + V_c') / 2.

It lies between -C (C - 1), all classes alike, and 0, which well separated classes reach to within rounding. A variance
is kept above a share of the total variance, so that classes of one image and dimensions that vary in few classes have
a distance.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from app.scoring.contract import Result
from app.scoring.panel import Panel

_Matrix = NDArray[np.float64]
DIMENSIONS = 64
VARIANCE_FLOOR = 1e-4
"""Smallest variance of a class, relative to the variance of all images."""
_FACTORS = 24  # variances multiplied before a logarithm is taken: each lies between 2e-4 and 2 N
_BLOCK_ENTRIES = 1 << 18  # entries of the comparisons of all classes with those of a block
_NEGLIGIBLE = 1e-17
_NO_VARIANCE = 1e-290  # relative to the square of the largest feature: what is smaller has no inverse
_PAIR_ENTRIES = 2_000_000
_CUBIC_BUDGET = 2e10  # C^2 K^3 that a score may take


def gbc_diagonal(panel: Panel) -> Result:
    """Return the score with diagonal covariance matrices.

    A class variance is at least 1e-4 of the variance of all images in the same dimension.

    Source: Pandy et al. 2022, arXiv:2111.12780, diagonal covariance.
    """
    if panel.constant:
        return _constant(panel)
    means_CD, variances_CD, n_C = panel.class_means_CD, np.zeros_like(panel.class_sums_CD), panel.counts_C
    for label, members_I in panel.class_parts():
        residual_ID = panel.centred_ND[members_I]
        residual_ID -= means_CD[label]
        np.square(residual_ID, out=residual_ID)
        variances_CD[label] += np.ones(len(members_I)) @ residual_ID / n_C[label]
    total_D = n_C / panel.num_images @ (means_CD**2 + variances_CD)
    scale_D = np.divide(1.0, np.sqrt(total_D), out=np.zeros_like(total_D), where=total_D > _NO_VARIANCE)
    floored_CD = np.maximum(variances_CD * scale_D**2, VARIANCE_FLOOR)
    overlap_CC = _overlap(_distances(means_CD * scale_D, floored_CD))
    np.fill_diagonal(overlap_CC, 0.0)
    to_means_CD, to_variances_CD = _derivatives(overlap_CC, means_CD * scale_D, floored_CD)
    to_variances_CD[floored_CD == VARIANCE_FLOOR] = 0.0
    influence_N = np.empty(panel.num_images)
    for label, members_I in panel.class_parts():
        residual_ID = panel.centred_ND[members_I]
        residual_ID -= means_CD[label]
        influence_N[members_I] = residual_ID @ (to_means_CD[label] * scale_D)
        influence_N[members_I] += np.square(residual_ID, out=residual_ID) @ (to_variances_CD[label] * scale_D**2)
    influence_N -= (np.bincount(panel.labels_N, influence_N) / n_C)[panel.labels_N]
    return Result(value=0.0 - float(overlap_CC.sum()), influence_N=influence_N / n_C[panel.labels_N])


def gbc_spherical(panel: Panel) -> Result:
    """Return the score with one variance per class, the same in all D dimensions.

    The determinants are its D-th powers: the second term of B counts D times. A class variance is at least 1e-4 of
    the variance of all images.

    Source: Pandy et al. 2022, arXiv:2111.12780, spherical covariance.
    """
    if panel.constant:
        return _constant(panel)
    d, n_C = panel.num_dimensions, panel.counts_C
    total = float(panel.squared_norms_N.mean()) / d
    means_CD = panel.class_means_CD
    residual_N = panel.residual_norms_N / d
    variances_C = np.bincount(panel.labels_N, residual_N) / n_C
    floored_C = np.maximum(variances_C, VARIANCE_FLOOR * total)
    gram_CC = means_CD @ means_CD.T
    length_C = np.diagonal(gram_CC)
    squared_CC = np.maximum(length_C[:, None] + length_C - 2 * gram_CC, 0.0)
    mean_CC = (floored_C[:, None] + floored_C) / 2
    ratio_CC = mean_CC / np.sqrt(floored_C[:, None] * floored_C)
    overlap_CC = _overlap(squared_CC / (8 * mean_CC) + d / 2 * np.log(np.maximum(ratio_CC, 1.0)))
    np.fill_diagonal(overlap_CC, 0.0)
    # value = -2 sum over pairs; d value / d m_c = 2 sum overlap dB/dm_c.
    pull_CC = overlap_CC / (2 * mean_CC)
    to_means_CD = pull_CC.sum(axis=1)[:, None] * means_CD - pull_CC @ means_CD
    to_variance_C = 2 * (
        overlap_CC * (-squared_CC / (16 * mean_CC**2) + d / 4 * (1 / mean_CC - 1 / floored_C[:, None]))
    ).sum(axis=1)
    to_variance_C[variances_C < VARIANCE_FLOOR * total] = 0.0
    own_N = panel.labels_N
    influence_N = np.empty(panel.num_images)
    for label, members_I in panel.class_parts():
        influence_N[members_I] = (panel.centred_ND[members_I] - means_CD[label]) @ to_means_CD[label]
    influence_N += to_variance_C[own_N] * (residual_N - variances_C[own_N])
    return Result(value=0.0 - float(overlap_CC.sum()), influence_N=influence_N / n_C[own_N])


def gbc(panel: Panel) -> Result:
    """Return the score with full covariance matrices in the first principal dimensions.

    There are at most 64, and fewer than that for more than 276 classes, so that C^2 K^3 stays below 2e10. A class of
    n_c images takes its covariance matrix from its own images and from all classes' pooled one as from K more images,
    plus 1e-4 of the mean variance of all images in these dimensions.

    Source: Pandy et al. 2022, arXiv:2111.12780; the pooling is Friedman's 1989,
    doi:10.1080/01621459.1989.10478752, Eq. 16.
    """
    if panel.constant:
        return _constant(panel)
    x_NK = _principal_coordinates(panel)
    k = x_NK.shape[1]
    members = panel.class_members
    means_CK = np.stack([x_NK[members_I].mean(axis=0) for members_I in members])
    residual_NK = x_NK - means_CK[panel.labels_N]
    pooled_KK = residual_NK.T @ residual_NK / panel.num_images
    floor = VARIANCE_FLOOR * float(np.einsum("nk,nk->", x_NK, x_NK)) / (panel.num_images * k)
    covariances_CKK = np.empty((panel.num_classes, k, k))
    for label, members_I in enumerate(members):
        rows_IK = residual_NK[members_I]
        covariances_CKK[label] = (rows_IK.T @ rows_IK + k * pooled_KK) / (len(members_I) + k) + floor * np.eye(k)
    half_log_C = _half_log_determinants(np.asarray(np.linalg.cholesky(covariances_CKK), dtype=np.float64))
    first_P, second_P = np.triu_indices(panel.num_classes, 1)
    total = 0.0
    block = max(1, _PAIR_ENTRIES // k**2)
    for start in range(0, len(first_P), block):
        i, j = first_P[start : start + block], second_P[start : start + block]
        mean_PKK = (covariances_CKK[i] + covariances_CKK[j]) / 2
        factors_PKK = np.asarray(np.linalg.cholesky(mean_PKK), dtype=np.float64)
        squared_P = _squared_lengths(factors_PKK, means_CK[i] - means_CK[j])
        log_ratio_P = _half_log_determinants(factors_PKK) - (half_log_C[i] + half_log_C[j]) / 2
        total += float(_overlap(squared_P / 8 + np.maximum(log_ratio_P, 0.0)).sum())
    return Result(value=0.0 - 2 * total)


def _constant(panel: Panel) -> Result:
    """All classes coincide."""
    worst = -float(panel.num_classes * (panel.num_classes - 1))
    return Result(value=worst, null_value=worst, warnings=("constant_features",))


def _distances(means_CD: _Matrix, variances_CD: _Matrix) -> _Matrix:
    """Return the Bhattacharyya distances of all pairs of classes with diagonal covariance matrices."""
    classes, dimensions = means_CD.shape
    half_log_C = np.log(variances_CD).sum(axis=1) / 2
    distances_CC = np.zeros((classes, classes))
    for start, stop in _class_blocks(means_CD):
        twice_mean_BOD = variances_CD[start:stop, None] + variances_CD[start:]
        squared_BOD = means_CD[start:stop, None] - means_CD[start:]
        np.square(squared_BOD, out=squared_BOD)
        squared_BOD /= twice_mean_BOD
        log_mean_BO = _log_product(twice_mean_BOD) - dimensions * np.log(2)
        log_ratio_BO = (log_mean_BO - half_log_C[start:stop, None] - half_log_C[start:]) / 2
        distances_CC[start:stop, start:] = squared_BOD.sum(axis=2) / 4 + np.maximum(log_ratio_BO, 0.0)
    distances_CC = np.triu(distances_CC, 1)
    return distances_CC + distances_CC.T


def _class_blocks(means_CD: _Matrix) -> Iterator[tuple[int, int]]:
    block = max(1, _BLOCK_ENTRIES // means_CD.size)
    for start in range(0, len(means_CD), block):
        yield start, min(start + block, len(means_CD))


def _derivatives(overlap_CC: _Matrix, means_CD: _Matrix, variances_CD: _Matrix) -> tuple[_Matrix, _Matrix]:
    """Return the derivatives of the score by the class means and by the class variances.

    Pairs whose overlap is lost beside the largest one are passed over.
    """
    to_means_CD, to_variances_CD = np.zeros_like(means_CD), np.zeros_like(variances_CD)
    least = max(_NEGLIGIBLE * float(overlap_CC.max()), np.finfo(np.float64).tiny)
    overlap_CC = np.where(overlap_CC >= least, overlap_CC, 0.0)
    for start, stop in _class_blocks(means_CD):
        others_O = np.flatnonzero(overlap_CC[start:stop].any(axis=0))
        overlap_BO = overlap_CC[start:stop, others_O]
        inverse_BOD = 2 / (variances_CD[start:stop, None] + variances_CD[others_O])
        scaled_BOD = (means_CD[start:stop, None] - means_CD[others_O]) * inverse_BOD
        to_means_CD[start:stop] = np.einsum("bo,bod->bd", overlap_BO, scaled_BOD) / 2
        np.square(scaled_BOD, out=scaled_BOD)
        scaled_BOD *= -0.25
        scaled_BOD += inverse_BOD
        to_variances_CD[start:stop] = np.einsum("bo,bod->bd", overlap_BO, scaled_BOD) / 2
        to_variances_CD[start:stop] -= overlap_BO.sum(axis=1)[:, None] / (2 * variances_CD[start:stop])
    return to_means_CD, to_variances_CD


def _log_product(values_BOD: _Matrix) -> _Matrix:
    """Return the sums of logarithms over the last axis; few logarithms of products of many values."""
    whole = values_BOD.shape[-1] // _FACTORS * _FACTORS
    parts_BOFJ = values_BOD[..., :whole].reshape(*values_BOD.shape[:-1], _FACTORS, -1)
    rest_BO = np.multiply.reduce(values_BOD[..., whole:], axis=-1)
    return np.asarray(np.log(np.multiply.reduce(parts_BOFJ, axis=-2)).sum(axis=-1) + np.log(rest_BO))


def _overlap(distance: _Matrix) -> _Matrix:
    """Return exp(-distance), zero where that is below the smallest normal number."""
    return np.where(distance < 708.0, np.exp(-np.minimum(distance, 708.0)), 0.0)


def _half_log_determinants(factors_PKK: _Matrix) -> _Matrix:
    return np.asarray(np.log(np.diagonal(factors_PKK, axis1=1, axis2=2)).sum(axis=1))


def _squared_lengths(factors_PKK: _Matrix, difference_PK: _Matrix) -> _Matrix:
    """Return |L^-1 difference|^2, by forward substitution in all pairs at once."""
    solved_PK = np.zeros_like(difference_PK)
    for k in range(difference_PK.shape[1]):
        known_P = np.einsum("pk,pk->p", factors_PKK[:, k, :k], solved_PK[:, :k])
        solved_PK[:, k] = (difference_PK[:, k] - known_P) / factors_PKK[:, k, k]
    return np.asarray(np.einsum("pk,pk->p", solved_PK, solved_PK))


def _principal_coordinates(panel: Panel) -> _Matrix:
    """Return the rows in the first principal axes, those of rounding left out."""
    size = len(panel.scatter_MM)
    affordable = int((_CUBIC_BUDGET / panel.num_classes**2) ** (1 / 3))
    wanted = max(1, min(DIMENSIONS, size, affordable))
    values_K, vectors_MK = eigh(panel.scatter_MM, subset_by_index=[size - wanted, size - 1], check_finite=False)
    kept_K = values_K > size * np.finfo(np.float64).eps * values_K[-1]
    values_K, vectors_MK = values_K[kept_K], vectors_MK[:, kept_K]
    return np.asarray(vectors_MK * np.sqrt(values_K) if panel.wide else panel.centred_ND @ vectors_MK)
