"""The loss of each image and its gradient with respect to the outputs.

Legend: ... any leading axes (seeds), C classes, N images.
"""

import numpy as np
from numpy.typing import NDArray

from app.domain.finetuning import Loss

_Array = NDArray[np.float64]


def one_hot_CN(labels_N: NDArray[np.intp], num_classes: int) -> _Array:
    """Return the labels as columns of zeros with a one."""
    return np.eye(num_classes)[:, labels_N]


def residuals_and_losses(loss: Loss, outputs_CN: _Array, target_CN: _Array) -> tuple[_Array, _Array]:
    """Return the gradient of each image's loss with respect to its outputs (..., C, N), and the losses (..., N).

    ``cross_entropy``: softmax(f) - onehot, and log sum exp f - f_label. ``squared``: f - onehot, and half its square.
    """
    if loss == "squared":
        residual_CN = outputs_CN - target_CN
        return residual_CN, 0.5 * np.einsum("...cn,...cn->...n", residual_CN, residual_CN)
    shifted_CN = outputs_CN - outputs_CN.max(axis=-2, keepdims=True)
    label_N = np.einsum("...cn,...cn->...n", shifted_CN, target_CN)
    np.exp(shifted_CN, out=shifted_CN)
    sum_N = shifted_CN.sum(axis=-2, keepdims=True)
    losses_N = np.log(sum_N[..., 0, :]) - label_N
    shifted_CN /= sum_N
    shifted_CN -= target_CN
    return shifted_CN, losses_N


def accuracies(outputs_CN: _Array, labels_N: NDArray[np.intp]) -> _Array:
    """Return the share of images whose largest output is their label's; equal outputs share the point.

    At the start of a zero head all outputs are equal, and 1 / C is what a guess among them gets.
    """
    largest_N = outputs_CN.max(axis=-2)
    tied_N = (outputs_CN == largest_N[..., None, :]).sum(axis=-2)
    own_N = outputs_CN[..., labels_N, np.arange(len(labels_N))]
    return np.asarray(np.where(own_N == largest_N, 1 / np.maximum(tied_N, 1), 0.0).mean(axis=-1))


def initial_curvature(loss: Loss, num_classes: int) -> float:
    """Return the largest eigenvalue of one image's loss curvature with respect to its outputs, where these are equal.

    ``cross_entropy``: the Hessian is diag(p) - p p', with p = 1 / C everywhere: 1 / C. ``squared``: 1, everywhere.
    """
    return 1.0 if loss == "squared" else 1 / num_classes


def largest_curvature(loss: Loss) -> float:
    """Return the bound of that eigenvalue over all outputs: 1/2 for cross-entropy, reached at p = (1/2, 1/2)."""
    return 1.0 if loss == "squared" else 0.5
