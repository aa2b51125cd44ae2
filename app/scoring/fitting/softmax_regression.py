"""Multinomial logistic regression for all folds at once, along a path of penalties.

Legend: N images, C classes, M axes, A = M + 1 axes with the intercept, F folds. Weights are held as A x (F C).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from app.scoring.fitting.lbfgs import minimize

_Array = NDArray[np.float64]
_COPIED_ENTRIES = 1 << 18  # of the images to predict, at a time: 2 MB


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
        self,
        axes_NM: _Array,
        labels_N: NDArray[np.intp],
        num_classes: int,
        training_FN: NDArray[np.bool_],
        *,
        logits_held: int = 1 << 22,
    ) -> None:
        """Start from zero weights.

        Args:
            axes_NM: centred features along their principal axes.
            labels_N: classes 0..C-1.
            num_classes: C.
            training_FN: which images each fold's model is trained on.
            logits_held: logits of images under all models that are in memory at a time; the default takes 32 MB.
        """
        images, axes = axes_NM.shape
        self._axes_NM = axes_NM
        self._variance_A = np.append(np.einsum("nm,nm->m", axes_NM, axes_NM) / images, 1.0)
        self._folds, self._classes = len(training_FN), num_classes
        self._images_at_once = max(1, logits_held // (self._folds * num_classes))
        self._weight_NF1 = (training_FN / training_FN.sum(axis=1, keepdims=True)).T[:, :, None].copy()
        self.unit_penalty = float(self._variance_A[:-1].max(initial=0.0)) / num_classes or 1.0
        self._labels_N = labels_N
        self._weights_AFC = np.zeros((axes + 1, self._folds, num_classes))

    def fit(self, penalty: float, *, tolerance: float = 1e-7) -> bool:
        """Move the weights to the minimum for this penalty, up to a loss of ``tolerance``; return whether it was found.

        A loss within 1e-7 nats of the minimum leaves log-probabilities uncertain by some 1e-4.
        """
        penalty_A = np.full(len(self._variance_A), penalty)
        penalty_A[-1] = 0.0
        length_A = 1 / np.sqrt(self._curvature() * self._variance_A + penalty_A)
        shrink_A1 = (penalty_A * length_A**2)[:, None]

        def loss_and_gradient(flat: _Array) -> tuple[float, _Array]:
            weights = flat.reshape(len(length_A), -1)
            given = length_A[:, None] * weights
            loss, gradient = 0.5 * float((shrink_A1 * weights**2).sum()), shrink_A1 * weights
            for block in self._blocks():
                more, slope_NFC = self._loss_and_slope(block, given)
                loss += more
                gradient[:-1] += length_A[:-1, None] * (self._axes_NM[block].T @ slope_NFC)
                gradient[-1] += length_A[-1] * slope_NFC.sum(axis=0)
            return loss, gradient.ravel()

        start = (self._weights_AFC / length_A[:, None, None]).ravel()
        flat, reached = minimize(loss_and_gradient, start, tolerance=tolerance)
        self._weights_AFC = flat.reshape(self._weights_AFC.shape) * length_A[:, None, None]
        return reached

    def log_probabilities(self, fold: int, images: NDArray[np.intp]) -> _Array:
        """Return log-probabilities of all classes (images x C) under one fold's model."""
        logits = np.empty((len(images), self._classes))
        size = max(1, _COPIED_ENTRIES // self._axes_NM.shape[1])
        for start in range(0, len(images), size):
            block = slice(start, start + size)
            np.matmul(self._axes_NM[images[block]], self._weights_AFC[:-1, fold], out=logits[block])
        logits += self._weights_AFC[-1, fold]
        logits -= logits.max(axis=1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))

    def _blocks(self) -> Iterator[slice]:
        for start in range(0, len(self._axes_NM), self._images_at_once):
            yield slice(start, min(start + self._images_at_once, len(self._axes_NM)))

    def _odds(self, block: slice, weights: _Array) -> tuple[_Array, _Array]:
        """Return (exp of some images' logits less their largest (N x F x C), those logits of their classes (N x F))."""
        logits = self._axes_NM[block] @ weights[:-1]
        logits += weights[-1]
        logits_NFC = logits.reshape(-1, self._folds, self._classes)
        logits_NFC -= logits_NFC.max(axis=2, keepdims=True)
        own_NF = logits_NFC[np.arange(len(logits)), :, self._labels_N[block]]
        return np.exp(logits_NFC, out=logits_NFC), own_NF

    def _loss_and_slope(self, block: slice, weights: _Array) -> tuple[float, _Array]:
        """Return some images' part of the loss, without penalty, and its derivatives by the logits (N x F C)."""
        odds_NFC, own_NF = self._odds(block, weights)
        weight_NF1, sums_NF = self._weight_NF1[block], odds_NFC.sum(axis=2)
        loss = float(((np.log(sums_NF) - own_NF) * weight_NF1[:, :, 0]).sum())
        odds_NFC *= weight_NF1 / sums_NF[:, :, None]
        odds_NFC[np.arange(len(own_NF)), :, self._labels_N[block]] -= weight_NF1[:, :, 0]
        return loss, odds_NFC.reshape(len(own_NF), -1)

    def _curvature(self) -> float:
        """Return the mean non-zero eigenvalue of diag(p) - p p^T over the images, under the present weights."""
        squares = 0.0
        for block in self._blocks():
            odds_NFC, _ = self._odds(block, self._weights_AFC.reshape(len(self._weights_AFC), -1))
            odds_NFC /= odds_NFC.sum(axis=2, keepdims=True)
            squares += float(np.square(odds_NFC, out=odds_NFC).sum(axis=2).sum())
        mean = squares / (len(self._axes_NM) * self._folds)
        return max((1 - mean) / (self._classes - 1), 1e-6)
