"""Which classes, and which pairs of classes, make up a label-feature correlation.

Legend: N images, D feature dimensions, C classes. H is the Gram matrix of the features, K that of pairs of the
same label; both minus their means as the score takes them.

The score is a sum over pairs of images, so it is a sum over pairs of classes: each block of H and K between the images
of two classes contributes its share of the numerator, over the common denominator. The shares add up to the score.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import BadRequest
from app.scoring.measurement import measure
from app.scoring.panel import Panel

CORRELATIONS = ("lfc", "lfc_offdiagonal", "lfc_centered", "lfc_cosine")

_Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Contributions:
    """What each class adds to a label-feature correlation.

    Attributes:
        pairs_CC: share of every pair of classes, symmetric. On the diagonal: how much more alike the images of a class
            are than images in general. Beside it: how much less alike those of two classes are; negative, for classes
            of about the same size, where the model sees the two as one.
    """

    pairs_CC: _Array

    @property
    def by_class(self) -> _Array:
        """Contribution of every class; they add up to the score."""
        return np.asarray(self.pairs_CC.sum(axis=1))


def contributions(name: str, panel: Panel) -> Contributions:
    """Split a label-feature correlation by pairs of classes.

    Source: arXiv:2102.00084, Eq. 8, with the numerator summed class by class.

    Raises:
        BadRequest: ``unknown_score``: the score is no label-feature correlation.
    """
    if name not in CORRELATIONS:
        raise BadRequest(
            "unknown_score",
            f"Only label-feature correlations are sums over pairs of classes, and {name!r} is none.",
            param="scores",
            hint=f"Choose from: {', '.join(CORRELATIONS)}.",
        )
    value = measure(name, panel).value
    if name == "lfc_cosine":
        name, panel = "lfc", _of_directions(panel)
    n_C = panel.counts_C.astype(np.float64)
    products_CC = _block_sums(name, panel)
    same_CC = np.diag(n_C**2)
    pairs_CC = np.outer(n_C, n_C)
    if name == "lfc_offdiagonal":
        same_CC, pairs_CC = np.diag(n_C * (n_C - 1)), pairs_CC - np.diag(n_C)
    # One of the two matrices minus its mean would do for the sum; both, so that each block tells on its own.
    total = pairs_CC.sum()
    feature_mean, label_mean = products_CC.sum() / total, same_CC.sum() / total
    if name == "lfc_centered":
        share_C = n_C / n_C.sum()
        same_NN_CC = np.eye(len(n_C)) - share_C[:, None] - share_C + share_C @ share_C
    else:
        same_NN_CC = np.eye(len(n_C)) - label_mean
    shares_CC = same_NN_CC * (products_CC - feature_mean * pairs_CC)
    numerator = float(shares_CC.sum())
    if numerator == 0.0:
        return Contributions(np.zeros_like(shares_CC))
    return Contributions(shares_CC * (value / numerator))


def _of_directions(panel: Panel) -> Panel:
    """Return a panel whose rows are divided by their lengths; a row of zeros stays."""
    directions_ND = panel.workspace.matrix(panel.num_images, panel.num_dimensions)
    for part in panel.parts():
        rows_BD = panel.features_ND[part]
        largest_B1 = np.abs(rows_BD).max(axis=1, keepdims=True)
        rows_BD = rows_BD / np.where(largest_B1 > 0, largest_B1, 1.0)  # so that no square vanishes
        length_B1 = np.linalg.norm(rows_BD, axis=1, keepdims=True)
        np.divide(rows_BD, np.where(length_B1 > 0, length_B1, 1.0), out=directions_ND[part])
    memory_bytes = panel.workspace.memory_bytes
    return Panel(directions_ND, panel.labels_N, products=panel.products, memory_bytes=memory_bytes)


def _block_sums(name: str, panel: Panel) -> _Array:
    """Return the sums of the Gram matrix over every pair of classes (C x C)."""
    s_CD, n_C = panel.class_sums_CD, panel.counts_C.astype(np.float64)
    if name == "lfc_centered":
        return np.asarray(s_CD @ s_CD.T)
    sums_CD = s_CD + n_C[:, None] * panel.mean_D
    products_CC = sums_CD @ sums_CD.T
    if name == "lfc_offdiagonal":
        squares_N = np.einsum("nd,nd->n", panel.features_ND, panel.features_ND)
        products_CC -= np.diag(np.bincount(panel.labels_N, squares_N, minlength=len(n_C)))
    return np.asarray(products_CC)
