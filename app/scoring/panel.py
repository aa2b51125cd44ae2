# ruff: noqa: N802 (properties that return arrays carry their shape, as all arrays do)
"""One model's features of one data set, and the quantities that several scores need.

Legend: N images, D feature dimensions, C classes, M = min(N, D), B images of a block, Z source classes.
"""

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.scoring.inputs import checked_features, checked_labels, checked_probabilities

_Matrix = NDArray[np.float64]


class Panel:
    """Checked inputs with lazily computed, shared decompositions; every array is read-only.

    Attributes:
        features_ND: float64 features divided by ``scale``, a power of two, so that the largest is below one.
        scale: what to multiply by to get the caller's features back.
        labels_N: classes 0..C-1.
        source_probabilities_NZ: rows sum to one; None when the model has no head.
    """

    def __init__(
        self, features_ND: ArrayLike, labels_N: ArrayLike, *, source_probabilities: ArrayLike | None = None
    ) -> None:
        """Check and copy the inputs.

        Raises:
            EvaluationFailed: ``invalid_features``, ``non_finite_features``, ``invalid_labels``, ``too_few_images``,
                ``too_few_classes`` or ``invalid_source_probabilities``.
        """
        features, self.scale = checked_features(features_ND)
        self.features_ND = _frozen(features)
        labels, self.num_classes = checked_labels(labels_N, features.shape[0])
        self.labels_N: NDArray[np.intp] = labels
        self.labels_N.flags.writeable = False
        self.num_images, self.num_dimensions = features.shape
        self.source_probabilities_NZ = (
            None if source_probabilities is None else _frozen(checked_probabilities(source_probabilities, len(labels)))
        )

    @property
    def wide(self) -> bool:
        """Whether there are more dimensions than images, so that the Gram matrix is the smaller one."""
        return bool(self.num_images < self.num_dimensions)

    @cached_property
    def counts_C(self) -> NDArray[np.intp]:
        """Images per class."""
        return np.bincount(self.labels_N, minlength=self.num_classes)

    @cached_property
    def one_hot_NC(self) -> _Matrix:
        """1.0 where an image belongs to a class."""
        return _frozen(np.eye(self.num_classes)[self.labels_N])

    @cached_property
    def mean_D(self) -> _Matrix:
        """Mean of the (scaled) features."""
        return _frozen(self.features_ND.mean(axis=0))

    @cached_property
    def centred_ND(self) -> _Matrix:
        """Features minus their mean; exactly zero in a dimension where all images agree."""
        centred_ND = self.features_ND - self.mean_D
        centred_ND[:, self.features_ND.min(axis=0) == self.features_ND.max(axis=0)] = 0.0
        return _frozen(centred_ND)

    @cached_property
    def constant(self) -> bool:
        """Whether all images have the same features."""
        return not self.squared_norms_N.any()

    @cached_property
    def squared_norms_N(self) -> _Matrix:
        """Squared length of every centred row."""
        return _frozen(np.einsum("nd,nd->n", self.centred_ND, self.centred_ND))

    @cached_property
    def class_sums_CD(self) -> _Matrix:
        """Sum of the centred rows of every class."""
        return _frozen(self.one_hot_NC.T @ self.centred_ND)

    @cached_property
    def scatter_MM(self) -> _Matrix:
        """The smaller of the centred Gram matrix (N x N, when ``wide``) and the scatter matrix (D x D)."""
        centred_ND = self.centred_ND
        return _frozen(centred_ND @ centred_ND.T if self.wide else centred_ND.T @ centred_ND)

    @cached_property
    def gram_energy_N(self) -> _Matrix:
        """Row sums of the squared entries of the centred Gram matrix, which is not formed unless it is the smaller."""
        if self.wide:
            return _frozen(np.einsum("nm,nm->n", self.scatter_MM, self.scatter_MM))
        return _frozen(np.einsum("nd,nd->n", self.centred_ND @ self.scatter_MM, self.centred_ND))

    @cached_property
    def spectrum(self) -> tuple[_Matrix, _Matrix]:
        """Eigenvalues of ``scatter_MM``, largest first and never negative, and its eigenvectors as columns."""
        values_M, vectors_MM = np.linalg.eigh(self.scatter_MM)
        return _frozen(np.maximum(values_M[::-1], 0.0)), _frozen(vectors_MM[:, ::-1])

    @cached_property
    def principal_NM(self) -> _Matrix:
        """Centred features in the coordinates of their principal axes: an exact rotation to M dimensions."""
        values_M, vectors_MM = self.spectrum
        return _frozen(vectors_MM * np.sqrt(values_M) if self.wide else self.centred_ND @ vectors_MM)

    def gram_rows(self, start: int, stop: int) -> _Matrix:
        """Return rows ``start:stop`` of the centred Gram matrix."""
        if self.wide:
            return self.scatter_MM[start:stop]
        return self.centred_ND[start:stop] @ self.centred_ND.T


def _frozen(array: _Matrix) -> _Matrix:
    array.flags.writeable = False
    return array
