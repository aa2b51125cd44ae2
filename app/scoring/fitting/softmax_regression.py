"""Multinomial logistic regression for all folds at once, along a path of penalties.

Legend: N images, C classes, M axes, A = M + 1 axes with the intercept, F folds. Weights are held as A x (F C).
"""

import numpy as np
from numpy.typing import NDArray

from app.scoring.fitting.lbfgs import minimize

_Array = NDArray[np.float64]


class SoftmaxPath:
    """Models of F training sets that share their images.

    Fold f minimises, over weights W and intercepts b, which are not penalised,

        mean over its training images of -log softmax(x W + b)[label]  +  penalty / 2 |W|^2

    The folds' losses are summed and minimised together by L-BFGS, which costs one matrix product for all of them, each
    fit starting from the last one. Coordinates are rescaled by the expected curvature: along principal axes the Hessian
    is close to diagonal, and a few dozen steps do. ``unit_penalty`` equals the loss's curvature along the first axis at
    zero weights: the penalty that halves what that axis may say.
    """

    def __init__(
        self, axes_NM: _Array, labels_N: NDArray[np.intp], num_classes: int, training_FN: NDArray[np.bool_]
    ) -> None:
        """Start from zero weights.

        Args:
            axes_NM: centred features along their principal axes.
            labels_N: classes 0..C-1.
            num_classes: C.
            training_FN: which images each fold's model is trained on.
        """
        images, axes = axes_NM.shape
        self._axes_NA = np.hstack([axes_NM, np.ones((images, 1))])
        self._variance_A = np.einsum("na,na->a", self._axes_NA, self._axes_NA) / images
        self._folds, self._classes = len(training_FN), num_classes
        self._weight_NF1 = (training_FN / training_FN.sum(axis=1, keepdims=True)).T[:, :, None].copy()
        self.unit_penalty = float(self._variance_A[:-1].max(initial=0.0)) / num_classes or 1.0
        self._rows_N, self._labels_N = np.arange(images), labels_N
        self._weights_AFC = np.zeros((axes + 1, self._folds, num_classes))

    def fit(self, penalty: float, *, tolerance: float = 1e-7) -> bool:
        """Move the weights to the minimum for this penalty, up to a loss of ``tolerance``; return whether it was found.

        A loss within 1e-7 nats of the minimum leaves log-probabilities uncertain by some 1e-4.
        """
        penalty_A = np.full(len(self._variance_A), penalty)
        penalty_A[-1] = 0.0
        length_A = 1 / np.sqrt(self._curvature() * self._variance_A + penalty_A)
        scaled_NA, shrink_A1 = self._axes_NA * length_A, (penalty_A * length_A**2)[:, None]

        def loss_and_gradient(flat: _Array) -> tuple[float, _Array]:
            weights = flat.reshape(len(length_A), -1)
            logits_NFC = (scaled_NA @ weights).reshape(-1, self._folds, self._classes)
            logits_NFC -= logits_NFC.max(axis=2, keepdims=True)
            own_NF = logits_NFC[self._rows_N, :, self._labels_N]
            np.exp(logits_NFC, out=logits_NFC)
            sums_NF = logits_NFC.sum(axis=2)
            loss = float(((np.log(sums_NF) - own_NF) * self._weight_NF1[:, :, 0]).sum())
            logits_NFC *= self._weight_NF1 / sums_NF[:, :, None]
            logits_NFC[self._rows_N, :, self._labels_N] -= self._weight_NF1[:, :, 0]
            gradient = scaled_NA.T @ logits_NFC.reshape(len(scaled_NA), -1) + shrink_A1 * weights
            return loss + 0.5 * float((shrink_A1 * weights**2).sum()), gradient.ravel()

        start = (self._weights_AFC / length_A[:, None, None]).ravel()
        flat, reached = minimize(loss_and_gradient, start, tolerance=tolerance)
        self._weights_AFC = flat.reshape(self._weights_AFC.shape) * length_A[:, None, None]
        return reached

    def log_probabilities(self, fold: int, images: NDArray[np.intp]) -> _Array:
        """Return log-probabilities of all classes (images x C) under one fold's model."""
        logits = self._axes_NA[images] @ self._weights_AFC[:, fold]
        logits -= logits.max(axis=1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))

    def _curvature(self) -> float:
        """Return the mean non-zero eigenvalue of diag(p) - p p^T over the images, under the present weights."""
        logits_NFC = np.tensordot(self._axes_NA, self._weights_AFC, axes=1)
        logits_NFC -= logits_NFC.max(axis=2, keepdims=True)
        np.exp(logits_NFC, out=logits_NFC)
        logits_NFC /= logits_NFC.sum(axis=2, keepdims=True)
        return max(float(1 - (logits_NFC**2).sum(axis=2).mean()) / (self._classes - 1), 1e-6)
