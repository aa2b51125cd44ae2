"""Label-feature correlation: whether images with similar features share a label.

Legend: N images, D feature dimensions, C classes. H is the Gram matrix of the features up to a constant added to every
entry, K the N x N matrix of same-label pairs. A score is the Pearson correlation of their entries.

No N x N matrix is needed: with x_i the centred features, mu their mean and a_i = x_i . mu, H_ij = x_i.x_j + a_i + a_j,
and all sums over pairs come from class sums and the smaller of the Gram and the scatter matrix. Removing one image
changes each sum by terms of that image alone, so all N leave-one-out values together cost no more than one value.
"""

import math

import numpy as np
from numpy.typing import NDArray

from app.scoring.contract import Result
from app.scoring.panel import Panel

_Vector = NDArray[np.float64]


def lfc(panel: Panel) -> Result:
    """Correlate all N^2 entries of the uncentred Gram matrix with the same-label matrix.

    Source: arXiv:2102.00084, Eq. 8, with the Frobenius norm.
    """
    return _pearson_over_pairs(panel, diagonal=True)


def lfc_offdiagonal(panel: Panel) -> Result:
    """Correlate the N(N-1) entries off the diagonal: features that say nothing score about 0 at every width.

    Source: arXiv:2102.00084, Eq. 8, without the pairs of an image with itself.
    """
    return _pearson_over_pairs(panel, diagonal=False)


def lfc_centered(panel: Panel) -> Result:
    """Correlate the Gram matrix of centred features with the double-centred same-label matrix (linear CKA).

    Source: arXiv:1905.00414, Eq. 3 and 4.
    """
    if panel.constant:
        return Result(value=0.0, warnings=("constant_features",))
    x_ND, d_N, q_N = panel.centred_ND, panel.squared_norms_N, panel.gram_energy_N
    s_CD, n_C, n = panel.class_sums_CD, panel.counts_C.astype(np.float64), float(panel.num_images)
    between = float(np.einsum("cd,cd->", s_CD, s_CD))
    squares, cubes = float(n_C @ n_C), float((n_C**3).sum())
    energy = float(q_N.sum())
    value = _ratio(np.array(between), np.array(energy), np.array(squares - 2 * cubes / n + squares**2 / n**2))

    # Without image i of class c the mean moves by -x_i/(n-1): every class sum s_g becomes s_g + n_g x_i/(n-1), and s_c
    # loses n/(n-1) x_i besides. The scatter matrix loses n/(n-1) x_i x_i^T.
    own_N, t = n_C[panel.labels_N], n / (n - 1)
    own_sum_dot_x_N = np.einsum("nd,nd->n", x_ND, s_CD[panel.labels_N])
    weighted_sums_dot_x_N = x_ND @ (n_C @ s_CD)
    between_N = (
        between
        + 2 * weighted_sums_dot_x_N / (n - 1)
        + squares * d_N / (n - 1) ** 2
        - 2 * t * (own_sum_dot_x_N + own_N * d_N / (n - 1))
        + t**2 * d_N
    )
    energy_N = energy - 2 * t * q_N + t**2 * d_N**2
    squares_N, cubes_N = squares - 2 * own_N + 1, cubes - own_N**3 + (own_N - 1) ** 3
    labels_N = squares_N - 2 * cubes_N / (n - 1) + squares_N**2 / (n - 1) ** 2
    return _result(value, _ratio(between_N, energy_N, labels_N))


def _pearson_over_pairs(panel: Panel, *, diagonal: bool) -> Result:
    if panel.constant:
        return Result(value=0.0, warnings=("constant_features",))
    x_ND, d_N, n = panel.centred_ND, panel.squared_norms_N, float(panel.num_images)
    s_CD, n_C = panel.class_sums_CD, panel.counts_C.astype(np.float64)
    a_N = x_ND @ panel.mean_D
    a_C = s_CD @ panel.mean_D

    # Row i of H: its sum, its sum of squares, its sum over images of the same class, its diagonal entry.
    row_sum_N = n * a_N
    row_energy_N = panel.gram_energy_N + 2 * (x_ND @ (x_ND.T @ a_N)) + n * a_N**2 + a_N @ a_N
    own_N = n_C[panel.labels_N]
    row_same_N = np.einsum("nd,nd->n", x_ND, s_CD[panel.labels_N]) + own_N * a_N + a_C[panel.labels_N]
    self_N = d_N + 2 * a_N
    if not diagonal:
        row_sum_N, row_energy_N, row_same_N = row_sum_N - self_N, row_energy_N - self_N**2, row_same_N - self_N
        self_N = np.zeros_like(self_N)

    pairs = n * n if diagonal else n * (n - 1)
    same_pairs = float(n_C @ n_C) - (0.0 if diagonal else n)
    total = 0.0 if diagonal else -float(d_N.sum())  # the centred rows sum to zero, and so do the entries of H
    energy, same = float(row_energy_N.sum()), float(row_same_N.sum())
    value = _pearson(np.array(same), np.array(total), np.array(energy), np.array(same_pairs), pairs)

    # Without image i: its row and its column go, its diagonal entry only once.
    leave_one_out_N = _pearson(
        same - 2 * row_same_N + self_N,
        total - 2 * row_sum_N + self_N,
        energy - 2 * row_energy_N + self_N**2,
        same_pairs - 2 * (own_N if diagonal else own_N - 1) + (1.0 if diagonal else 0.0),
        (n - 1) ** 2 if diagonal else (n - 1) * (n - 2),
    )
    return _result(value, leave_one_out_N)


def _pearson(same: _Vector, total: _Vector, energy: _Vector, same_pairs: _Vector, pairs: float) -> _Vector:
    """Return the correlation of H with the 0/1 same-label entries from sums over ``pairs`` entries."""
    return _ratio(
        same - total * same_pairs / pairs, energy - total**2 / pairs, same_pairs * (1 - same_pairs / pairs), energy
    )


def _ratio(numerator: _Vector, features: _Vector, labels: _Vector, magnitude: _Vector | None = None) -> _Vector:
    """Return numerator / sqrt(features * labels) in [-1, 1]; NaN where a variance is zero up to rounding."""
    defined = (features > 1e-14 * (features if magnitude is None else magnitude)) & (labels > 1e-9)
    scale = np.sqrt(np.where(defined, features, 1.0) * np.where(defined, labels, 1.0))
    return np.where(defined, np.clip(numerator / scale, -1.0, 1.0), np.nan)


def _result(value: _Vector, leave_one_out_N: _Vector) -> Result:
    """Attach the jackknife standard error, where every leave-one-out value is defined."""
    if np.isnan(value):
        return Result(value=0.0, warnings=("no_variation",))
    if np.isnan(leave_one_out_N).any():
        return Result(value=float(value))
    n = len(leave_one_out_N)
    spread = float(((leave_one_out_N - leave_one_out_N.mean()) ** 2).sum())
    return Result(value=float(value), stderr=math.sqrt((n - 1) / n * spread))
