"""H-score: the share of the features' variance, in every direction alike, that lies between classes.

Legend: N images, D feature dimensions, C classes, K coordinates, R <= K of them independent.

With T the scatter matrix and B = sum_c n_c m_c m_c^T, m_c the class means of the centred features, the score is
tr(T^+ B). It is the same for any coordinates that span the same space, so a Cholesky factor of T restricted to
independent coordinates replaces the pseudo-inverse.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.lapack import dpstrf, dtrtri

from app.domain.resampling import stratified_stderr
from app.scoring.contract import Result
from app.scoring.features.label_axes import label_axes
from app.scoring.gram import independent_rows
from app.scoring.panel import Panel

_Matrix = NDArray[np.float64]
_DEPENDENT = 1e-10  # share of a coordinate's variance below which what the others leave of it is rounding
_MIN_SHRINKAGE = 1e-10
_CLEAR_OF_ONE = 2.0  # standard errors of alpha below one from which on full shrinkage is out of its reach


def hscore(panel: Panel) -> Result:
    """Return tr(Cov^+ Cov_between), between 0 and the smaller of the features' rank and C - 1.

    When the centred features have rank N - 1 the value is exactly C - 1, whatever the labels: ``saturated``.

    Source: Bao et al. 2019, arXiv:2212.10082.
    """
    if panel.constant:
        return Result(value=0.0, null_value=0.0, warnings=("constant_features",))
    saturated = Result(
        value=panel.num_classes - 1.0,
        null_value=panel.num_classes - 1.0,
        warnings=("saturated",),
    )
    if not panel.wide:
        coordinates_NK, scatter_KK, sums_CK = panel.centred_ND, panel.scatter_MM, panel.class_sums_CD
    elif _independent(panel):
        return saturated
    else:
        coordinates_NK = _independent_columns(panel.scatter_MM)
        if coordinates_NK.shape[1] >= panel.num_images - 1:
            return saturated
        scatter_KK, sums_CK = coordinates_NK.T @ coordinates_NK, panel.one_hot_NC.T @ coordinates_NK
    factor_RR, chosen_R, scale_R = _factor(scatter_KK)
    if len(chosen_R) >= panel.num_images - 1:
        return saturated
    means_CR = sums_CK[:, chosen_R] * scale_R / panel.counts_C[:, None]
    half_RC = solve_triangular(factor_RR, means_CR.T, lower=True, check_finite=False)
    own_C = np.einsum("rc,rc->c", half_RC, half_RC)  # m_c^T T^-1 m_c
    directions_RC = solve_triangular(factor_RR, half_RC, lower=True, trans="T", check_finite=False)
    projected_NC = coordinates_NK @ _spread(directions_RC * scale_R[:, None], chosen_R, coordinates_NK.shape[1])
    return Result(
        value=float(panel.counts_C @ own_C),
        null_value=len(chosen_R) * (panel.num_classes - 1.0) / (panel.num_images - 1),
        influence_N=_influences(panel, projected_NC, own_C),
    )


def hscore_regularized(panel: Panel) -> Result:
    """Return (1 - alpha) tr(((1 - alpha) S + alpha mu I)^-1 Cov_between) with Ledoit and Wolf's alpha.

    S is the covariance matrix and mu its mean eigenvalue. The value equals tr((T + penalty I)^-1 B) with
    penalty = N alpha mu / (1 - alpha). There are no influences where alpha is within two standard errors of one: the
    value stops at zero there, and no first-order error is right.

    Source: Ibrahim et al. 2021, arXiv:2110.06893; alpha: Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4.
    """
    if panel.constant:
        return Result(value=0.0, null_value=0.0, warnings=("constant_features",))
    alpha, mean_eigenvalue = ledoit_wolf(panel)
    if alpha >= 1.0:
        return Result(value=0.0, null_value=0.0, warnings=("fully_shrunk",))
    n = panel.num_images
    penalty = n * alpha * mean_eigenvalue / (1 - alpha)
    solve = _by_spectrum if panel.decomposed else _by_factor
    projected_NC, own_C, length_C, explained = solve(panel, penalty)
    counts_C = panel.counts_C.astype(np.float64)
    length = float(counts_C @ length_C)  # minus the derivative of the value by the penalty
    penalty_slope_N = _penalty_slopes(panel, alpha, mean_eigenvalue)
    return Result(
        value=float(counts_C @ own_C),
        null_value=explained * (panel.num_classes - 1.0) / (n - 1),
        influence_N=None
        if penalty_slope_N is None
        else _influences(panel, projected_NC, own_C) - length * penalty_slope_N,
    )


def _by_factor(panel: Panel, penalty: float) -> tuple[_Matrix, _Matrix, _Matrix, float]:
    """Return (x^T P m (N x C), m^T P m (C), m^T P^2 m (C), tr T P) with P = (T + penalty I)^-1, m the class means."""
    n, counts_C = panel.num_images, panel.counts_C.astype(np.float64)
    factor_MM = _penalised_factor(panel.scatter_MM, penalty)
    indicators_NC = panel.one_hot_NC / counts_C - 1.0 / n
    right_MC = indicators_NC if panel.wide else panel.class_sums_CD.T / counts_C
    half_MC = solve_triangular(factor_MM, right_MC, lower=True, check_finite=False)
    solved_MC = solve_triangular(factor_MM, half_MC, lower=True, trans="T", check_finite=False)
    length_C = np.einsum("mc,mc->c", solved_MC, solved_MC)
    if panel.wide:
        # With e the centred indicator of a class over its size and u = (X X^T + p I)^-1 e, the class mean is X^T e,
        # X (X^T X + p I)^-1 X^T e = e - p u, and |(X^T X + p I)^-1 X^T e|^2 = u^T e - p |u|^2.
        projected_NC = indicators_NC - penalty * solved_MC
        own_C = np.einsum("nc,nc->c", indicators_NC, projected_NC)
        length_C = np.einsum("nc,nc->c", solved_MC, indicators_NC) - penalty * length_C
    else:
        projected_NC = panel.centred_ND @ solved_MC
        own_C = np.einsum("mc,mc->c", half_MC, half_MC)
    inverse_MM, _ = dtrtri(factor_MM, lower=1, overwrite_c=1)
    explained = len(inverse_MM) - penalty * float(np.einsum("ij,ij->", inverse_MM, inverse_MM))
    return projected_NC, own_C, length_C, explained


def _by_spectrum(panel: Panel, penalty: float) -> tuple[_Matrix, _Matrix, _Matrix, float]:
    """Return the same from the principal axes, along which a penalty shrinks each class mean on its own."""
    axes = label_axes(panel)
    shrink_M = axes.values_M / (axes.values_M + penalty)
    indicators_MC = axes.projected_MC / panel.counts_C
    squares_MC = np.square(indicators_MC)
    projected_NC = axes.combined(shrink_M[:, None] * indicators_MC)
    return projected_NC, shrink_M @ squares_MC, (shrink_M / (axes.values_M + penalty)) @ squares_MC, shrink_M.sum()


def ledoit_wolf(panel: Panel) -> tuple[float, float]:
    """Return (alpha, mean eigenvalue of the covariance matrix) of Ledoit and Wolf's shrinkage.

    alpha is kept above 1e-10, so that what is shrunk can be inverted. A covariance that is a multiple of the identity
    already needs no shrinkage.
    """
    n, d = float(panel.num_images), float(panel.num_dimensions)
    norms_N = panel.squared_norms_N
    mean_eigenvalue = float(norms_N.sum()) / (n * d)
    energy = panel.energy / n**2
    distance = energy / d - mean_eigenvalue**2
    error = (float(norms_N @ norms_N) / n - energy) / (n * d)
    if distance <= 1e-14 * mean_eigenvalue**2:
        return _MIN_SHRINKAGE, mean_eigenvalue
    return min(max(error / distance, _MIN_SHRINKAGE), 1.0), mean_eigenvalue


def _penalty_slopes(panel: Panel, alpha: float, mean_eigenvalue: float) -> _Matrix | None:
    """Return the derivatives of N alpha mu / (1 - alpha) by the images' weights; None where alpha may well be one."""
    n, d = float(panel.num_images), float(panel.num_dimensions)
    mean_slope_N = (panel.squared_norms_N / d - mean_eigenvalue) / n
    alpha_slope_N = _alpha_slopes(panel, alpha, mean_eigenvalue, mean_slope_N)
    error = stratified_stderr(alpha_slope_N, panel.labels_N, panel.units_N)
    if error is None or 1.0 - alpha < _CLEAR_OF_ONE * error:
        return None
    relative_N = 1.0 / n + mean_slope_N / mean_eigenvalue + alpha_slope_N / (alpha * (1 - alpha))
    return np.asarray(n * alpha * mean_eigenvalue / (1 - alpha) * relative_N)


def _alpha_slopes(panel: Panel, alpha: float, mean_eigenvalue: float, mean_slope_N: _Matrix) -> _Matrix:
    """Return the derivatives of alpha by the images' weights; see ``ledoit_wolf`` for its terms."""
    if alpha <= _MIN_SHRINKAGE:
        return np.zeros(panel.num_images)
    n, d = float(panel.num_images), float(panel.num_dimensions)
    norms_N = panel.squared_norms_N
    energy = float(panel.gram_energy_N.sum()) / n**2
    energy_slope_N = 2 * (panel.gram_energy_N / n - energy) / n
    # An image moves the mean of all, and with it every length.
    moved_N = 4 * (panel.centred_ND @ (norms_N @ panel.centred_ND)) / n
    fourth_slope_N = (norms_N**2 - float(norms_N @ norms_N) / n - moved_N) / n
    distance = energy / d - mean_eigenvalue**2
    distance_slope_N = energy_slope_N / d - 2 * mean_eigenvalue * mean_slope_N
    error_slope_N = (fourth_slope_N - energy_slope_N) / (n * d) - alpha * distance / n
    return np.asarray((error_slope_N - alpha * distance_slope_N) / distance)


def _independent(panel: Panel) -> bool:
    """Tell whether N - 1 images are clearly independent, without choosing among them."""
    if panel.decomposed:
        # A Cholesky factor's remainder has no smaller trace than the eigenvalues that are left.
        return bool(panel.spectrum[0][panel.num_images - 2] > 2 * _DEPENDENT * float(panel.squared_norms_N.max()))
    return independent_rows(panel.scatter_MM) is not None


def _factor(scatter_KK: _Matrix) -> tuple[_Matrix, NDArray[np.intp], _Matrix]:
    """Return (lower Cholesky factor, coordinates it is of, what to multiply them by) for independent coordinates."""
    diagonal_K = np.diagonal(scatter_KK)
    scale_K = np.divide(1.0, np.sqrt(diagonal_K), out=np.zeros_like(diagonal_K), where=diagonal_K > 0)
    correlation_KK = scatter_KK * scale_K * scale_K[:, None]
    try:
        factor_KK = cholesky(correlation_KK, lower=True, check_finite=False)
        if np.diagonal(factor_KK).min() ** 2 > _DEPENDENT:
            return factor_KK, np.arange(len(scale_K)), scale_K
    except np.linalg.LinAlgError:
        pass  # dependent coordinates: choose among them
    factor_KK, pivots_K, rank, _ = dpstrf(correlation_KK, lower=1, tol=_DEPENDENT)
    chosen_R = np.asarray(pivots_K[:rank], dtype=np.intp) - 1
    return np.tril(factor_KK[:rank, :rank]), chosen_R, scale_K[chosen_R]


def _independent_columns(gram_NN: _Matrix) -> _Matrix:
    """Return N x R coordinates with this Gram matrix, R its rank."""
    tolerance = _DEPENDENT * float(np.diagonal(gram_NN).max())
    factor_NN, pivots_N, rank, _ = dpstrf(gram_NN, lower=1, tol=tolerance)
    columns_NR = np.empty((len(gram_NN), rank))
    columns_NR[pivots_N - 1] = np.tril(factor_NN)[:, :rank]
    return columns_NR


def _penalised_factor(scatter_MM: _Matrix, penalty: float) -> _Matrix:
    penalised_MM = scatter_MM.T.copy(order="F")
    penalised_MM[np.diag_indices_from(penalised_MM)] += penalty
    return np.asarray(cholesky(penalised_MM, lower=True, overwrite_a=True, check_finite=False))


def _spread(rows_RC: _Matrix, chosen_R: NDArray[np.intp], coordinates: int) -> _Matrix:
    spread_KC = np.zeros((coordinates, rows_RC.shape[1]))
    spread_KC[chosen_R] = rows_RC
    return spread_KC


def _influences(panel: Panel, projected_NC: _Matrix, own_C: _Matrix) -> _Matrix:
    """Return 2 x^T A m_c - m_c^T A m_c - x^T A B A x with A the inverse, ``projected_NC`` = x^T A m."""
    own_N = projected_NC[np.arange(panel.num_images), panel.labels_N]
    loss_N = np.einsum("nc,nc,c->n", projected_NC, projected_NC, panel.counts_C.astype(np.float64), optimize=True)
    return np.asarray(2 * own_N - own_C[panel.labels_N] - loss_N)
