"""One model's features of one data set, and the quantities that several scores need.

Legend: N images, D feature dimensions, C classes, M = min(N, D), K <= M coordinates, B images of a block, Z source
classes, R dimensions of a reference model.
"""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.lapack import dpstrf

from app.domain.errors import EvaluationFailed
from app.scoring.inputs import (
    SourceClasses,
    checked_facts,
    checked_features,
    checked_labels,
    checked_probabilities,
    checked_source_classes,
    checked_units,
)

_Matrix = NDArray[np.float64]


class Panel:
    """Checked inputs with lazily computed, shared decompositions; every array is read-only.

    Attributes:
        features_ND: float64 features divided by ``scale``, a power of two, so that the largest is below one.
        scale: what to multiply by to get the caller's features back.
        labels_N: classes 0..C-1.
        source_probabilities_NZ: rows sum to one; None when the model has no head.
        reference_NR: another model's features of the same images, scaled like ``features_ND``; None when not given.
        source_classes: class means of the source data in the units of ``features_ND``; None when not given.
        facts: what is known of the model without images: ``parameters``, ``flops``, ``source_accuracy``.
        units_N: images with the same number are near-duplicates, drawn together when uncertainty is estimated; None
            when every image stands for itself.
    """

    def __init__(
        self,
        features_ND: ArrayLike,
        labels_N: ArrayLike,
        *,
        source_probabilities: ArrayLike | None = None,
        reference_features: ArrayLike | None = None,
        source_classes: SourceClasses | None = None,
        facts: Mapping[str, float] | None = None,
        units: ArrayLike | None = None,
    ) -> None:
        """Check and copy the inputs.

        Raises:
            EvaluationFailed: ``invalid_features``, ``non_finite_features``, ``invalid_labels``, ``too_few_images``,
                ``too_few_classes``, ``invalid_source_probabilities``, ``invalid_source_classes``, ``invalid_facts`` or
                ``invalid_units``.
        """
        features, self.scale = checked_features(features_ND)
        self.features_ND = _frozen(features)
        self.num_images, self.num_dimensions = features.shape
        self._set_labels(labels_N)
        self.source_probabilities_NZ = (
            None
            if source_probabilities is None
            else _frozen(checked_probabilities(source_probabilities, self.num_images))
        )
        self.reference_NR = None if reference_features is None else self._checked_reference(reference_features)
        self.source_classes = self._scaled_source(source_classes)
        self.facts = checked_facts(facts or {})
        self.units_N = None if units is None else checked_units(units, self.num_images)

    def with_labels(self, labels_N: ArrayLike) -> "Panel":
        """Return a panel of the same images under other labels; what does not depend on labels is shared.

        Raises:
            EvaluationFailed: ``invalid_labels``, ``too_few_images`` or ``too_few_classes``.
        """
        other = object.__new__(Panel)
        other.__dict__.update({name: value for name, value in self.__dict__.items() if name not in _OF_LABELS})
        other._set_labels(labels_N)
        return other

    def _set_labels(self, labels_N: ArrayLike) -> None:
        labels, self.num_classes = checked_labels(labels_N, self.num_images)
        labels.flags.writeable = False
        self.labels_N: NDArray[np.intp] = labels

    def _checked_reference(self, reference_features: ArrayLike) -> _Matrix:
        reference, _ = checked_features(reference_features)
        if len(reference) != self.num_images:
            raise EvaluationFailed(
                "invalid_features",
                f"The reference model's features are of {len(reference)} images, the model's own of {self.num_images}.",
                param="reference_features",
                hint="Pass both models' features of the same images in the same order.",
            )
        return _frozen(reference)

    def _scaled_source(self, source: SourceClasses | None) -> SourceClasses | None:
        if source is None:
            return None
        checked = checked_source_classes(source, self.num_dimensions)
        return SourceClasses(_frozen(np.asarray(checked.means_ZD) / self.scale), checked.weights_Z)

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
        """Eigenvalues of ``scatter_MM``, largest first and never negative, and its eigenvectors as columns.

        Those of the Gram matrix sum to zero: what is the same for all images, an eigenvector of value zero, is taken
        out of them.
        """
        values_M, vectors_MM = np.linalg.eigh(self.scatter_MM)
        if self.wide:
            vectors_MM -= vectors_MM.mean(axis=0)
        return _frozen(np.maximum(values_M[::-1], 0.0)), _frozen(vectors_MM[:, ::-1])

    @cached_property
    def principal_NM(self) -> _Matrix:
        """Centred features in the coordinates of their principal axes: an exact rotation to M dimensions."""
        values_M, vectors_MM = self.spectrum
        return _frozen(vectors_MM * np.sqrt(values_M) if self.wide else self.centred_ND @ vectors_MM)

    @cached_property
    def coordinates_NK(self) -> _Matrix:
        """Centred features without needless dimensions: rows with the same inner products, K <= min(N, D).

        They are the centred features themselves when there are at least as many images as dimensions, else the rows
        of a pivoted Cholesky factor of the Gram matrix, a third of the work of its eigen-decomposition. A score that
        does not change under rotations may use them in place of ``centred_ND``.
        """
        if not self.wide:
            return self.centred_ND
        if self.constant:
            return _frozen(np.zeros((self.num_images, 1)))
        factor_NN, pivots_N, rank, _ = dpstrf(self.scatter_MM, lower=1, tol=-1.0)
        coordinates_NK = np.empty((self.num_images, rank))
        coordinates_NK[pivots_N - 1] = np.tril(factor_NN)[:, :rank]
        return _frozen(coordinates_NK)

    @cached_property
    def coordinate_sums_CK(self) -> _Matrix:
        """Sum of the coordinates of every class."""
        return self.one_hot_NC.T @ self.coordinates_NK if self.wide else self.class_sums_CD

    @cached_property
    def coordinate_scatter_KK(self) -> _Matrix:
        """Scatter matrix of the coordinates."""
        return _frozen(self.coordinates_NK.T @ self.coordinates_NK) if self.wide else self.scatter_MM

    @cached_property
    def within_scatter_KK(self) -> _Matrix:
        """Scatter matrix of the coordinates about their class means."""
        scaled_CK = self.coordinate_sums_CK / np.sqrt(self.counts_C)[:, None]
        return _frozen(self.coordinate_scatter_KK - scaled_CK.T @ scaled_CK)

    def gram_rows(self, start: int, stop: int) -> _Matrix:
        """Return rows ``start:stop`` of the centred Gram matrix."""
        if self.wide:
            return self.scatter_MM[start:stop]
        return self.centred_ND[start:stop] @ self.centred_ND.T


# Kept apart, so that a panel with other labels does not take them over.
_OF_LABELS = frozenset(
    {
        "labels_N",
        "num_classes",
        "counts_C",
        "one_hot_NC",
        "class_sums_CD",
        "coordinate_sums_CK",
        "within_scatter_KK",
    }
)


def _frozen(array: _Matrix) -> _Matrix:
    array.flags.writeable = False
    return array
