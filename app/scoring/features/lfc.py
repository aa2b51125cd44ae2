"""Label-feature correlation: whether images with similar features share a label.

Legend: N images, D feature dimensions, C classes. H is the Gram matrix of the features up to a constant added to every
entry, K the N x N matrix of same-label pairs. A score is the Pearson correlation of their entries.

No N x N matrix is needed: with x_i the centred features, mu their mean and a_i = x_i . mu, H_ij = x_i.x_j + a_i + a_j,
and all sums over pairs come from class sums and the smaller of the Gram and the scatter matrix. Removing one image
changes each sum by terms of that image alone, so all N leave-one-out values together cost no more than one value. They
also give the influences: a score does not change when all images count twice, so to first order the effects of all
images sum to zero, and image i's is (mean leave-one-out value - value without i) * (N - 1) / N.

Shuffling the labels changes the numerator only, whose mean over all shuffles follows from the diagonal of H.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.scoring.contract import Result
from app.scoring.panel import Panel

_Vector = NDArray[np.float64]
_BLOCK = 256  # images whose cosines are held at a time
_ENOUGH = 1e-5  # share of a difference in what it is taken from that leaves it ten digits
_SAME_DIRECTION = 1e-24  # squared distance below which two rows of length one differ by rounding alone


@dataclass(frozen=True, eq=False)
class _Rows:
    """What the sums over pairs need of a matrix whose rows are ``x_i + mean``, with x_i centred."""

    x_ND: _Vector
    mean_D: _Vector
    squared_norms_N: _Vector
    gram_energy_N: _Vector
    class_sums_CD: _Vector


@dataclass(frozen=True, eq=False)
class _Sums:
    """Of the rows of H: sum, sum of squares, sum over images of the same class, diagonal entry; and of all entries."""

    row_N: _Vector
    energy_N: _Vector
    same_N: _Vector
    self_N: _Vector
    total: float


def lfc(panel: Panel) -> Result:
    """Correlate all N^2 entries of the uncentred Gram matrix with the same-label matrix.

    Source: arXiv:2102.00084, Eq. 8, with the Frobenius norm.
    """
    return _of_features(panel, diagonal=True)


def lfc_offdiagonal(panel: Panel) -> Result:
    """Correlate the N(N-1) entries off the diagonal: features that say nothing score about 0 at every width.

    Source: arXiv:2102.00084, Eq. 8, without the pairs of an image with itself.
    """
    return _of_features(panel, diagonal=False)


def lfc_cosine(panel: Panel) -> Result:
    """Correlate all N^2 cosines of the uncentred features with the same-label matrix.

    Every row is divided by its length, a row of zeros stays; the rest is ``lfc``.
    """
    if panel.constant:
        return Result(value=0.0, warnings=("constant_features",))
    sums = _sums_of_cosines(panel) if panel.wide else None
    if sums is not None:
        return _pearson_over_pairs(panel, sums, diagonal=True)
    largest_N = np.maximum(panel.features_ND.max(axis=1), -panel.features_ND.min(axis=1))
    divisor_N = np.where(largest_N > 0, largest_N, 1.0)  # so that the squares of a short row do not vanish
    unit_ND = panel.workspace.matrix(panel.num_images, panel.num_dimensions)
    np.divide(panel.features_ND, divisor_N[:, None], out=unit_ND)
    length_N = np.sqrt(np.einsum("nd,nd->n", unit_ND, unit_ND))
    unit_ND /= np.where(length_N > 0, length_N, 1.0)[:, None]
    mean_D = unit_ND.mean(axis=0)
    unit_ND -= mean_D
    squared_norms_N = np.einsum("nd,nd->n", unit_ND, unit_ND)
    if squared_norms_N.max() <= _SAME_DIRECTION:
        return Result(value=0.0, warnings=("no_variation",))
    if panel.wide:
        gram_NN = panel.products.gram(unit_ND)
        energy_N = np.einsum("nm,nm->n", gram_NN, gram_NN)
    else:
        energy_N = panel.energy_of(unit_ND, panel.products.scatter(unit_ND))
    rows = _Rows(unit_ND, mean_D, squared_norms_N, energy_N, panel.sums_by_class(unit_ND))
    return _pearson_over_pairs(panel, _sums_over_rows(panel, rows, diagonal=True), diagonal=True)


def lfc_centered(panel: Panel) -> Result:
    """Correlate the Gram matrix of centred features with the double-centred same-label matrix (linear CKA).

    Source: arXiv:1905.00414, Eq. 3 and 4.
    """
    if panel.constant:
        return Result(value=0.0, warnings=("constant_features",))
    d_N, q_N = panel.squared_norms_N, panel.gram_energy_N
    n_C, n = panel.counts_C.astype(np.float64), float(panel.num_images)
    between, between_N = between_classes(panel)
    squares, cubes = float(n_C @ n_C), float((n_C**3).sum())
    energy = float(q_N.sum())
    labels = np.array(squares - 2 * cubes / n + squares**2 / n**2)
    value = _ratio(np.array(between), np.array(energy), labels)
    null = _ratio(np.array(d_N.sum() * (n - squares / n) / (n - 1)), np.array(energy), labels)

    # Without an image the scatter matrix loses n/(n-1) x_i x_i^T.
    own_N, t = n_C[panel.labels_N], n / (n - 1)
    energy_N = energy - 2 * t * q_N + t**2 * d_N**2
    squares_N, cubes_N = squares - 2 * own_N + 1, cubes - own_N**3 + (own_N - 1) ** 3
    labels_N = squares_N - 2 * cubes_N / (n - 1) + squares_N**2 / (n - 1) ** 2
    return _result(value, _ratio(between_N, energy_N, labels_N), null)


def between_classes(panel: Panel) -> tuple[float, _Vector]:
    """Return the sum of the squared class sums of the centred features, and the same without each image (N)."""
    x_ND, d_N, s_CD = panel.centred_ND, panel.squared_norms_N, panel.class_sums_CD
    n_C, n = panel.counts_C.astype(np.float64), float(panel.num_images)
    between = float(np.einsum("cd,cd->", s_CD, s_CD))
    # Without image i of class c the mean moves by -x_i/(n-1): every class sum s_g becomes s_g + n_g x_i/(n-1), and s_c
    # loses n/(n-1) x_i besides.
    own_N, t = n_C[panel.labels_N], n / (n - 1)
    own_sum_dot_x_N = panel.own_products(x_ND, s_CD)
    weighted_sums_dot_x_N = x_ND @ (n_C @ s_CD)
    return between, (
        between
        + 2 * weighted_sums_dot_x_N / (n - 1)
        + float(n_C @ n_C) * d_N / (n - 1) ** 2
        - 2 * t * (own_sum_dot_x_N + own_N * d_N / (n - 1))
        + t**2 * d_N
    )


def jackknife_influences(leave_one_out_N: _Vector) -> _Vector:
    """Return the influences of the images from the values without each."""
    n = len(leave_one_out_N)
    return np.asarray((n - 1) / n * (leave_one_out_N.mean() - leave_one_out_N))


def _of_features(panel: Panel, *, diagonal: bool) -> Result:
    if panel.constant:
        return Result(value=0.0, warnings=("constant_features",))
    rows = _Rows(panel.centred_ND, panel.mean_D, panel.squared_norms_N, panel.gram_energy_N, panel.class_sums_CD)
    return _pearson_over_pairs(panel, _sums_over_rows(panel, rows, diagonal=diagonal), diagonal=diagonal)


def _sums_over_rows(panel: Panel, rows: _Rows, *, diagonal: bool) -> _Sums:
    x_ND, d_N, n = rows.x_ND, rows.squared_norms_N, float(panel.num_images)
    a_N = x_ND @ rows.mean_D
    a_C = rows.class_sums_CD @ rows.mean_D
    own_N = panel.counts_C.astype(np.float64)[panel.labels_N]
    row_N = n * a_N
    energy_N = rows.gram_energy_N + 2 * (x_ND @ (x_ND.T @ a_N)) + n * a_N**2 + a_N @ a_N
    same_N = panel.own_products(x_ND, rows.class_sums_CD) + own_N * a_N + a_C[panel.labels_N]
    self_N = d_N + 2 * a_N
    if diagonal:
        return _Sums(row_N, energy_N, same_N, self_N, 0.0)  # centred rows sum to zero, and so do the entries of H
    return _Sums(row_N - self_N, energy_N - self_N**2, same_N - self_N, np.zeros_like(self_N), -float(d_N.sum()))


def _sums_of_cosines(panel: Panel) -> _Sums | None:
    """Return the sums over cosines from the Gram matrix of the centred features; None where digits would be lost."""
    n, d_N = panel.num_images, panel.squared_norms_N
    a_N, mean_square = panel.centred_ND @ panel.mean_D, float(panel.mean_D @ panel.mean_D)
    square_N = d_N + 2 * a_N + mean_square
    if (square_N < _ENOUGH * (d_N + mean_square)).any():
        return None
    inverse_N = 1 / np.sqrt(square_N)
    row_N, energy_N, same_N = np.empty(n), np.empty(n), np.empty(n)
    for start in range(0, n, _BLOCK):
        block = slice(start, start + _BLOCK)
        cosine_BN = panel.scatter_MM[block] + a_N
        cosine_BN += (a_N[block] + mean_square)[:, None]
        cosine_BN *= inverse_N
        cosine_BN *= inverse_N[block, None]
        row_N[block] = cosine_BN.sum(axis=1)
        energy_N[block] = np.einsum("bn,bn->b", cosine_BN, cosine_BN)
        same_BC = cosine_BN @ panel.one_hot_NC
        same_N[block] = same_BC[np.arange(len(same_BC)), panel.labels_N[block]]
    total, energy = float(row_N.sum()), float(energy_N.sum())
    if energy - total**2 / n**2 < _ENOUGH * energy:
        return None
    return _Sums(row_N, energy_N, same_N, np.ones(n), total)


def _pearson_over_pairs(panel: Panel, sums: _Sums, *, diagonal: bool) -> Result:
    n, n_C = float(panel.num_images), panel.counts_C.astype(np.float64)
    row_sum_N, row_energy_N, row_same_N, self_N = sums.row_N, sums.energy_N, sums.same_N, sums.self_N
    own_N, total = n_C[panel.labels_N], sums.total
    pairs = n * n if diagonal else n * (n - 1)
    same_pairs = float(n_C @ n_C) - (0.0 if diagonal else n)
    energy, same = float(row_energy_N.sum()), float(row_same_N.sum())
    value = _pearson(np.array(same), np.array(total), np.array(energy), np.array(same_pairs), pairs)
    trace = float(self_N.sum())
    shuffled = trace + (total - trace) * (float(n_C @ n_C) - n) / (n * (n - 1))
    null = _pearson(np.array(shuffled), np.array(total), np.array(energy), np.array(same_pairs), pairs)

    # Without image i: its row and its column go, its diagonal entry only once.
    leave_one_out_N = _pearson(
        same - 2 * row_same_N + self_N,
        total - 2 * row_sum_N + self_N,
        energy - 2 * row_energy_N + self_N**2,
        same_pairs - 2 * (own_N if diagonal else own_N - 1) + (1.0 if diagonal else 0.0),
        (n - 1) ** 2 if diagonal else (n - 1) * (n - 2),
    )
    return _result(value, leave_one_out_N, null)


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


def _result(value: _Vector, leave_one_out_N: _Vector, null: _Vector) -> Result:
    """Attach the influences, where every leave-one-out value is defined."""
    if np.isnan(value):
        return Result(value=0.0, warnings=("no_variation",))
    if np.isnan(leave_one_out_N).any():
        return Result(value=float(value), null_value=float(null))
    return Result(value=float(value), null_value=float(null), influence_N=jackknife_influences(leave_one_out_N))
