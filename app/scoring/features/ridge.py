"""Ridge regression of the classes on the features, judged on images left out.

Legend: N images, C classes, M axes of the features, S penalties.

The centred one-hot labels are fitted by x W with penalty |W|^2. With H the hat matrix (mean included) the residual of
an image that was left out is its residual divided by 1 - H_ii, so nothing is fitted more than once. In the principal
axes of the features a penalty only scales each axis.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.ranking import accuracy_stderr
from app.scoring.contract import Result
from app.scoring.features.held_out import held_out
from app.scoring.features.label_axes import LabelAxes, label_axes
from app.scoring.panel import Panel

_Array = NDArray[np.float64]

# Penalties relative to the largest eigenvalue of the scatter matrix, four a decade. Weaker ones are rounding noise.
RELATIVE_PENALTIES = tuple(10.0 ** (power / 4) for power in range(8, -33, -1))
_TIE = 1e-9  # predictions closer than this are equal: rounding must not decide
_LEAST_KEPT = 1e-15  # of 1 - H_ii, so that rounding never divides by zero


def ridge_gcv(panel: Panel) -> Result:
    """Return the share of the labels' variance that ridge regression predicts, by generalised cross-validation.

    The value is 1 - GCV(penalty) / GCV(class shares), with GCV = RSS / n / (1 - tr H / n)^2 and the penalty at which it
    is smallest: 1 for a perfect fit, 0 for features that predict no better than the class shares.

    Source: Golub, Heath and Wahba 1979, doi:10.1080/00401706.1979.10489751, Eq. 1.4.
    """
    if panel.constant:
        return Result(value=0.0, warnings=("constant_features",))
    n, axes = panel.num_images, label_axes(panel)
    fit = _best_fit(axes)
    variance_N = np.square(axes.labels_NC).sum(axis=1)
    variance = float(variance_N.sum())
    scale = ((n - 1) / fit.freedom) ** 2 / variance
    ratio = fit.rss * scale

    # As weights, W and the inverse of the penalised scatter matrix P: RSS = J - penalty dJ / dpenalty with J the
    # minimised loss, whose derivative by an image's weight is its squared residual; degrees of freedom likewise from
    # log det. ``second`` is penalty x P^2 x', ``slope`` the residual's derivative by penalty.
    bend_M = axes.values_M / (axes.values_M + fit.penalty) ** 2
    slope_NC = axes.combined(bend_M[:, None] * axes.projected_MC)
    second_N = fit.penalty * axes.squares(bend_M[:, None])[:, 0]
    residual_NC = fit.residual_NC()
    rss_N = (residual_NC * (residual_NC - 2 * fit.penalty * slope_NC)).sum(axis=1)
    rising_N = rss_N * scale + ratio * (2 / (n - 1) - variance_N / variance - 2 * (1 - second_N) / fit.freedom)
    return Result(value=1.0 - ratio, influence_N=-rising_N)


def ridge_loo(panel: Panel) -> Result:
    """Return the leave-one-out accuracy of ridge regression with the penalty that ``ridge_gcv`` chose.

    An image is predicted as the class of the largest fitted value; a tie counts as wrong. Images alone in their class
    are fitted and not judged.

    Raises:
        EvaluationFailed: ``no_held_out_images``: no class has two images.
    """
    held_out_N = held_out(panel)
    if panel.constant:
        n = panel.num_images
        residual_NC, kept_N = panel.one_hot_NC - panel.counts_C / n, np.full(n, 1 - 1 / n)
    else:
        fit = _best_fit(label_axes(panel))
        residual_NC, kept_N = fit.residual_NC(), fit.kept_N()
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


@dataclass(frozen=True)
class _Fit:
    """The fit with one penalty.

    Attributes:
        rss: sum of squared residuals.
        freedom: n - tr H.
    """

    axes: LabelAxes
    penalty: float
    rss: float
    freedom: float

    def residual_NC(self) -> _Array:
        """Return labels minus fit."""
        axes = self.axes
        left_M1 = (self.penalty / (axes.values_M + self.penalty))[:, None]
        if axes.complete:
            return axes.combined(left_M1 * axes.projected_MC)
        return axes.labels_NC - axes.combined((1 - left_M1) * axes.projected_MC)

    def kept_N(self) -> _Array:
        """Return 1 - H_ii."""
        axes = self.axes
        left_M1 = (self.penalty / (axes.values_M + self.penalty))[:, None]
        n = len(axes.labels_NC)
        kept_N1 = axes.squares(left_M1) if axes.complete else 1 - 1 / n - axes.squares(1 - left_M1)
        return np.maximum(kept_N1[:, 0], _LEAST_KEPT)


def _best_fit(axes: LabelAxes) -> _Fit:
    """Return the fit of the penalty with the smallest generalised cross-validation error."""
    n, values_M = len(axes.labels_NC), axes.values_M
    penalties_S = np.array(RELATIVE_PENALTIES) * values_M[0]
    left_SM = penalties_S[:, None] / (values_M + penalties_S[:, None])
    rss_S = left_SM**2 @ np.square(axes.projected_MC).sum(axis=1) + axes.outside_C.sum()
    # The centred features have no more than n - 1 axes.
    freedom_S = left_SM[:, : n - 1].sum(axis=1) + max(n - 1 - len(values_M), 0)
    error_S = rss_S / freedom_S**2
    best = int(np.argmax(error_S <= error_S.min() * (1 + 1e-12)))  # the strongest of those that rounding tells apart
    return _Fit(axes, float(penalties_S[best]), float(rss_S[best]), float(freedom_S[best]))
