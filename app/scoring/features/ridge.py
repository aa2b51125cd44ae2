"""Ridge regression of the classes on the features, judged on images left out.

Legend: N images, D feature dimensions, C classes, M rows of the smaller of Gram and scatter matrix.

The centred one-hot labels are fitted by x W with penalty |W|^2. With H the hat matrix (mean included) the residual of
an image that was left out is its residual divided by 1 - H_ii, so nothing is fitted more than once. All penalties share
one tridiagonal form; only the chosen one needs an inverse.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotri

from app.domain.errors import EvaluationFailed
from app.domain.ranking import accuracy_stderr
from app.scoring.contract import Result
from app.scoring.panel import Panel

_Array = NDArray[np.float64]

# Penalties relative to the largest eigenvalue of the scatter matrix, four a decade. Weaker ones are rounding noise.
RELATIVE_PENALTIES = tuple(10.0 ** (power / 4) for power in range(8, -33, -1))
_TIE = 1e-9  # predictions closer than this are equal: rounding must not decide


@dataclass(frozen=True, eq=False)
class _Fit:
    """The fit of the penalty with the smallest generalised cross-validation error.

    Attributes:
        ratio: that error over the error of always predicting the class shares.
        residual_NC: labels minus fit.
        kept_N: 1 - H_ii.
        influence_N: of minus ``ratio``.
    """

    ratio: float
    residual_NC: _Array
    kept_N: _Array
    influence_N: _Array


_FITS: WeakKeyDictionary[Panel, _Fit] = WeakKeyDictionary()


def ridge_gcv(panel: Panel) -> Result:
    """Return the share of the labels' variance that ridge regression predicts, by generalised cross-validation.

    The value is 1 - GCV(penalty) / GCV(class shares), with GCV = RSS / n / (1 - tr H / n)^2 and the penalty at which it
    is smallest: 1 for a perfect fit, 0 for features that predict no better than the class shares.

    Source: Golub, Heath and Wahba 1979, doi:10.1080/00401706.1979.10489751, Eq. 1.4.
    """
    if panel.constant:
        return Result(value=0.0, warnings=("constant_features",))
    fit = _fit(panel)
    return Result(value=1.0 - fit.ratio, influence_N=fit.influence_N)


def ridge_loo(panel: Panel) -> Result:
    """Return the leave-one-out accuracy of ridge regression with the penalty that ``ridge_gcv`` chose.

    An image is predicted as the class of the largest fitted value; a tie counts as wrong. Images alone in their class
    are fitted and not judged.

    Raises:
        EvaluationFailed: ``no_held_out_images``: no class has two images.
    """
    held_out_N = panel.counts_C[panel.labels_N] > 1
    if not held_out_N.any():
        raise EvaluationFailed(
            "no_held_out_images",
            f"Each of the {panel.num_classes} classes has a single image, so no prediction can be checked.",
            param="labels",
            hint="Upload at least two images for some of the classes.",
        )
    if panel.constant:
        n = panel.num_images
        residual_NC, kept_N = panel.one_hot_NC - panel.counts_C / n, np.full(n, 1 - 1 / n)
    else:
        fit = _fit(panel)
        residual_NC, kept_N = fit.residual_NC, fit.kept_N
    prediction_NC = panel.one_hot_NC - residual_NC / kept_N[:, None]
    leading_NC = prediction_NC > prediction_NC.max(axis=1, keepdims=True) - _TIE
    predicted_N = np.where((leading_NC.sum(axis=1) == 1) & held_out_N, prediction_NC.argmax(axis=1), -1)
    right_N = predicted_N == panel.labels_N
    total, right = int(held_out_N.sum()), int(right_N.sum())
    return Result(
        value=right / total,
        stderr=accuracy_stderr(right, total),
        warnings=("constant_features",) * panel.constant + ("singleton_class",) * bool((panel.counts_C == 1).any()),
        influence_N=np.where(held_out_N, (right_N - right / total) / total, 0.0),
        per_image_N=right_N,
        predicted_N=predicted_N,
        held_out_N=held_out_N,
    )


def _fit(panel: Panel) -> _Fit:
    if panel not in _FITS:
        _FITS[panel] = _fit_anew(panel)
    return _FITS[panel]


def _fit_anew(panel: Panel) -> _Fit:
    n = panel.num_images
    labels_NC = panel.one_hot_NC - panel.counts_C / n
    variance = float((labels_NC**2).sum())
    penalty, rss, freedom = _best_penalty(panel, labels_NC, variance)
    ratio = rss / variance * ((n - 1) / freedom) ** 2

    # As weights, W and the inverse of the penalised scatter matrix P: RSS = J - penalty dJ / dpenalty with J the
    # minimised loss, whose derivative by an image's weight is its squared residual; degrees of freedom likewise from
    # log det. ``leverage`` is x P x', ``second`` is penalty x P^2 x', ``slope`` the residual's derivative by penalty.
    if panel.gram_is_full:
        # The centred Gram matrix maps ones to zero: lifted, that direction costs the others no digits.
        lift = panel.centred_tridiagonal.largest
        inverse_NN = _inverse(panel.gram_rows(0, n) + lift / n, penalty)
        solved_NC = inverse_NN @ labels_NC
        residual_NC = penalty * solved_NC
        slope_NC = solved_NC - penalty * (inverse_NN @ solved_NC)
        diagonal_N = np.diagonal(inverse_NN)
        kept_N = penalty * (diagonal_N - 1 / (n * (penalty + lift)))
        squares_N = np.einsum("nm,nm->n", inverse_NN, inverse_NN) - 1 / (n * (penalty + lift) ** 2)
        second_N = kept_N - penalty**2 * squares_N
    else:
        projected_ND = panel.centred_ND @ _inverse(panel.scatter_MM, penalty)
        weights_DC = projected_ND.T @ labels_NC
        residual_NC = labels_NC - panel.centred_ND @ weights_DC
        slope_NC = projected_ND @ weights_DC
        kept_N = 1 - 1 / n - np.einsum("nd,nd->n", projected_ND, panel.centred_ND)
        second_N = penalty * np.einsum("nd,nd->n", projected_ND, projected_ND)
    rss_N = (residual_NC**2).sum(axis=1) - 2 * penalty * (residual_NC * slope_NC).sum(axis=1)
    variance_N = (labels_NC**2).sum(axis=1)
    rising_N = rss_N / variance * ((n - 1) / freedom) ** 2 + ratio * (
        2 / (n - 1) - variance_N / variance - 2 * (1 - second_N) / freedom
    )
    # The smallest 1 - H_ii that the penalty allows, so that rounding never divides by zero.
    return _Fit(ratio, residual_NC, np.maximum(kept_N, 1e-15), -rising_N)


def _best_penalty(panel: Panel, labels_NC: _Array, variance: float) -> tuple[float, float, float]:
    """Return (penalty, residual sum of squares, n - tr H) where GCV is smallest."""
    n, form = panel.num_images, panel.centred_tridiagonal
    # Of the centred Gram matrix one eigenvalue is zero and belongs to the mean.
    values_M = form.eigenvalues_M[1:] if panel.gram_is_full else form.eigenvalues_M
    rotated_MC = form.rotate(labels_NC if panel.gram_is_full else panel.centred_ND.T @ labels_NC)
    best, chosen = np.inf, (0.0, 0.0, 1.0)
    for relative in RELATIVE_PENALTIES:
        penalty = relative * form.largest
        solved_MC = form.solve(penalty, rotated_MC)
        squares = float(np.einsum("mc,mc->", solved_MC, solved_MC))
        if panel.gram_is_full:
            rss = penalty**2 * squares
        else:
            explained = float(np.einsum("mc,mc->", rotated_MC, solved_MC))
            rss = max(variance - explained - penalty * squares, 0.0)
        freedom = float((penalty / (values_M + penalty)).sum()) + (n - 1 - len(values_M))
        if rss / freedom**2 < best * (1 - 1e-12):
            best, chosen = rss / freedom**2, (penalty, rss, freedom)
    return chosen


def _inverse(matrix_MM: _Array, penalty: float) -> _Array:
    shifted_MM = matrix_MM + penalty * np.eye(len(matrix_MM))
    inverse_MM, _ = dpotri(dpotrf(shifted_MM, lower=1)[0], lower=1)
    lower_MM = np.tril(inverse_MM)
    return np.asarray(lower_MM + np.tril(lower_MM, -1).T)
