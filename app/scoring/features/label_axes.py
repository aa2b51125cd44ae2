"""The labels in the principal axes of the features: what linear models of the labels share.

Legend: N images, C classes, M axes, K columns.

An axis is a left singular vector of the centred features, a unit vector over the images. Shrinkage of any strength acts
on each axis alone, so that one decomposition serves every penalty.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from app.scoring.panel import Panel

_Array = NDArray[np.float64]
_BLOCK_ENTRIES = 1 << 18  # squared at a time: 2 MB, which stay in a cache
_NEGLIGIBLE = 1e-14  # share of the largest eigenvalue below which an axis of the scatter matrix is rounding noise


@dataclass(frozen=True, eq=False)
class LabelAxes:
    """Centred one-hot labels Y and the axes U as columns, those without images left zero.

    Attributes:
        values_M: squared singular values, largest first.
        labels_NC: Y.
        projected_MC: U'Y.
        complete: whether the axes span all centred labels.
        outside_C: squared length of what the axes do not span of each column of Y.
    """

    values_M: _Array
    labels_NC: _Array
    projected_MC: _Array
    complete: bool
    outside_C: _Array
    _columns_NM: _Array
    _inverse_lengths_M: _Array

    def of(self, columns_NK: _Array) -> _Array:
        """Return U' times columns that sum to zero."""
        return np.asarray(self._inverse_lengths_M[:, None] * (self._columns_NM.T @ columns_NK))

    def combined(self, weights_MK: _Array) -> _Array:
        """Return U times the weights."""
        return np.asarray(self._columns_NM @ (self._inverse_lengths_M[:, None] * weights_MK))

    def squares(self, weights_MK: _Array) -> _Array:
        """Return the squared entries of U times the weights."""
        weights_MK = self._inverse_lengths_M[:, None] ** 2 * weights_MK
        squares_NK = np.empty((len(self._columns_NM), weights_MK.shape[1]))
        size = max(1, _BLOCK_ENTRIES // len(weights_MK))
        for start in range(0, len(squares_NK), size):
            block = slice(start, start + size)
            np.matmul(np.square(self._columns_NM[block]), weights_MK, out=squares_NK[block])
        return squares_NK


_FOUND: WeakKeyDictionary[Panel, LabelAxes] = WeakKeyDictionary()


def label_axes(panel: Panel) -> LabelAxes:
    """Return the axes of a panel's features with its labels; the same for all scores of the panel."""
    if panel not in _FOUND:
        _FOUND[panel] = _label_axes(panel)
    return _FOUND[panel]


def _label_axes(panel: Panel) -> LabelAxes:
    n, (values_M, vectors_MM) = panel.num_images, panel.spectrum
    if panel.wide:
        columns_NM, inverse_M, complete = vectors_MM, np.ones(n), True
    else:
        columns_NM = panel.principal_NM
        kept_M = values_M > _NEGLIGIBLE * values_M[0]
        inverse_M = np.where(kept_M, 1 / np.sqrt(np.where(kept_M, values_M, 1.0)), 0.0)
        complete = int(kept_M.sum()) >= n - 1
    labels_NC = panel.one_hot_NC - panel.counts_C / n
    projected_MC = inverse_M[:, None] * (columns_NM.T @ labels_NC)
    length_C = panel.counts_C * (1 - panel.counts_C / n)
    inside_C = np.square(projected_MC).sum(axis=0)
    outside_C = np.zeros(panel.num_classes) if complete else np.maximum(length_C - inside_C, 0.0)
    return LabelAxes(values_M, labels_NC, projected_MC, complete, outside_C, columns_NM, inverse_M)
