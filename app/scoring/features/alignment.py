"""How fast a linear model on the features starts to learn the labels, and how simple they look to it.

Legend: N images, C classes, M axes. Y are the centred one-hot labels, K the Gram matrix of the centred features.
"""

import math

import numpy as np

from app.scoring.contract import Result
from app.scoring.features.label_axes import label_axes
from app.scoring.features.lfc import between_classes, jackknife_influences
from app.scoring.panel import Panel

_NEVER = -300.0
_ROUNDING = 1e-16  # of the speed of shuffled labels
_RIDGE = 1e-3  # of the mean eigenvalue


def alignment_speed(panel: Panel) -> Result:
    """Return log10 of tr(Y'KY) / (N |Y|^2): how fast, per unit of the learning rate, the loss starts to fall.

    For the squared loss averaged over the images, and a classifier that starts at zero, the rate is half the relative
    one of the loss.

    Features that are the same for all images, from which nothing is ever learned, get -300.

    Source: arXiv:2102.00084, Eq. 3, over the initial loss.
    """
    if panel.constant:
        return Result(value=_NEVER, null_value=_NEVER, warnings=("constant_features",))
    n, n_C = float(panel.num_images), panel.counts_C.astype(np.float64)
    between, between_N = between_classes(panel)
    own_N, squares = n_C[panel.labels_N], float(n_C @ n_C)
    length = n - squares / n
    length_N = (n - 1) - (squares - 2 * own_N + 1) / (n - 1)
    # The mean over all shuffles of the labels, where a pair of images shares one as often as any other does.
    shuffled = float(panel.squared_norms_N.sum()) / (n * (n - 1))
    least = _ROUNDING * shuffled
    without_N = np.divide(between_N, (n - 1) * length_N, out=np.full_like(between_N, least), where=length_N > 0)
    unit = 2 * math.log10(panel.scale)
    return Result(
        value=unit + math.log10(max(between / (n * length), least)),
        null_value=unit + math.log10(shuffled),
        influence_N=jackknife_influences(np.log10(np.maximum(without_N, least))) if (length_N > 0).all() else None,
    )


def ridge_generalization(panel: Panel) -> Result:
    """Return -(1 / N) sum_k |Y'v_k|^2 / (lambda_k / mean lambda + 0.001) over the eigenvectors v_k of K.

    Labels that lie along the strongest directions get a value near zero. The ridge keeps directions of rounding out,
    whose inverse would decide; eigenvalues count relative to their mean over the N - 1 there can be, so that the
    features' unit does not.

    Source: arXiv:2102.00084, Eq. 4 (Y' K^-1 Y / N), with a ridge and the other sign.
    """
    if panel.constant:
        return Result(value=0.0, null_value=0.0, warnings=("constant_features",))
    n, axes = panel.num_images, label_axes(panel)
    mean = float(axes.values_M.sum()) / (n - 1)
    weights_M = 1 / (axes.values_M / mean + _RIDGE)
    inside = float(weights_M @ np.square(axes.projected_MC).sum(axis=1))
    return Result(value=-(inside + float(axes.outside_C.sum()) / _RIDGE) / n)
