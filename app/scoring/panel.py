"""One model's features of one data set, and the quantities that several scores need.

Legend: N images, D feature dimensions, C classes, M = min(N, D), K <= M coordinates, B images of a block, Z source
classes, R dimensions of a reference model.
"""

from collections.abc import Hashable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.lapack import dpstrf

from app.domain.errors import EvaluationFailed
from app.scoring.contract import Input
from app.scoring.feature_matrix import FeatureMatrix, Part, frozen
from app.scoring.gradient_kernels import GradientKernels
from app.scoring.gradients.coordinates import checked_gradients
from app.scoring.gram import independent_rows
from app.scoring.inputs import (
    SourceClasses,
    checked_facts,
    checked_features,
    checked_labels,
    checked_probabilities,
    checked_source_classes,
    checked_units,
    scaled,
)
from app.scoring.products import NumpyProducts, Products
from app.scoring.workspace import Workspace

_Matrix = NDArray[np.float64]
_FEW_CLASSES = 32  # up to this many, one matrix product is faster than a sum for each
_DECOMPOSITIONS_SHARE = 16  # of the budget of memory may be spent on a faster decomposition


class Panel(FeatureMatrix):
    """Checked inputs with lazily computed, shared decompositions; every array is read-only.

    All is checked at once, but copied, and brought to float64, only where a score asks for it: the caller's arrays
    must stay as they are for as long as the panel is in use. Features may be a file mapped into memory
    (``numpy.load(path, mmap_mode="r")``), and larger than it: see ``memory_bytes``.

    Attributes:
        scale: a power of two that brings the largest feature below one; multiply by it to get the caller's features.
        labels_N: classes 0..C-1.
        given: the inputs that there are.
        gradients: the kernels of the model's gradients; None when not given.
        source_classes: class means of the source data in the units of ``features_ND``; None when not given.
        facts: what is known of the model without images: ``parameters``, ``flops``, ``source_accuracy``.
        units_N: images with the same number are near-duplicates, drawn together when uncertainty is estimated; None
            when every image stands for itself.
        of_any_labels: panels that follow from this one whatever its labels; shared with those of other labels.
        products: what computes large products.
        workspace: where matrices as large as the features are put.
    """

    def __init__(
        self,
        features_ND: ArrayLike,
        labels_N: ArrayLike,
        *,
        gradients: GradientKernels | ArrayLike | None = None,
        source_probabilities: ArrayLike | None = None,
        reference_features: ArrayLike | None = None,
        source_classes: SourceClasses | None = None,
        facts: Mapping[str, float] | None = None,
        units: ArrayLike | None = None,
        products: Products | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        """Check the inputs.

        Args:
            features_ND: real numbers of any precision.
            labels_N: the class of each row.
            gradients: of some scalars of the features by the model's parameters, P probes: their kernels, or the
                gradients or sketches of them (P x N x S).
            source_probabilities: the pretrained classifier's (N x Z).
            reference_features: another model's (N x R).
            source_classes: class means of the source data.
            facts: see ``facts``.
            units: see ``units_N``.
            products: what computes large products; numpy unless another is given.
            memory_bytes: how much matrices of the size of the features may take together: half of the machine's, or
                the container's, memory unless given. A float64 matrix of more than a quarter of it is kept in a
                temporary file and gone through in blocks of rows.

        Raises:
            EvaluationFailed: ``invalid_features``, ``non_finite_features``, ``invalid_labels``, ``too_few_images``,
                ``too_few_classes``, ``invalid_gradients``, ``non_finite_gradients``,
                ``invalid_source_probabilities``, ``invalid_source_classes``, ``invalid_facts`` or ``invalid_units``.
        """
        super().__init__(features_ND, Workspace(memory_bytes))
        self.products: Products = products or NumpyProducts(self.workspace.memory_bytes // _DECOMPOSITIONS_SHARE)
        self.of_any_labels: dict[Hashable, Panel] = {}
        self._set_labels(labels_N)
        self.gradients = None if gradients is None else checked_gradients(gradients, self.num_images)
        self._raw_probabilities = (
            None if source_probabilities is None else checked_probabilities(source_probabilities, self.num_images)
        )
        self._raw_reference = None if reference_features is None else self._checked_reference(reference_features)
        self.source_classes = self._scaled_source(source_classes)
        self.facts = checked_facts({} if facts is None else facts)
        self.units_N = None if units is None else checked_units(units, self.num_images)
        optional: dict[Input, object] = {
            "gradients": self.gradients,
            "source_probabilities": self._raw_probabilities,
            "reference_features": self._raw_reference,
            "source_classes": self.source_classes,
            "facts": self.facts or None,
        }
        always: tuple[Input, ...] = ("features", "labels")
        self.given = frozenset({*always, *(name for name, given in optional.items() if given is not None)})

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

    def _checked_reference(self, reference_features: ArrayLike) -> tuple[NDArray[Any], float]:
        reference, scale = checked_features(reference_features, "reference_features")
        if len(reference) != self.num_images:
            raise EvaluationFailed(
                "invalid_features",
                f"The reference model's features are of {len(reference)} images, the model's own of {self.num_images}.",
                param="reference_features",
                hint="Pass both models' features of the same images in the same order.",
            )
        return reference, scale

    def _scaled_source(self, source: SourceClasses | None) -> SourceClasses | None:
        if source is None:
            return None
        means_ZD, weights_Z = checked_source_classes(source, self.num_dimensions, self.scale)
        return SourceClasses(frozen(means_ZD), weights_Z)

    @property
    def wide(self) -> bool:
        """Whether there are more dimensions than images, so that the Gram matrix is the smaller one."""
        return bool(self.num_images < self.num_dimensions)

    @property
    def decomposed(self) -> bool:
        """Whether the spectrum is known already: then what else needs a factor of its own follows from it for less."""
        return "spectrum" in self.__dict__

    @cached_property
    def source_probabilities_NZ(self) -> _Matrix:
        """The source classifier's probabilities, each row summing to one."""
        return frozen(np.asarray(self.given_probabilities / self.probability_sums_N[:, None]))

    @cached_property
    def probability_sums_N(self) -> _Matrix:
        """What to divide each row of the given probabilities by."""
        return frozen(self.given_probabilities.sum(axis=1, dtype=np.float64))

    @property
    def given_probabilities(self) -> NDArray[Any]:
        """The source probabilities as they were given (N x Z); rows may sum to a little more or less than one.

        Raises:
            ValueError: there are none; ``given`` tells.
        """
        if self._raw_probabilities is None:
            raise ValueError("this panel has no source probabilities")
        return self._raw_probabilities

    @cached_property
    def source_predictions_N(self) -> NDArray[np.intp]:
        """The most probable source class of every image, the first of equals."""
        return np.asarray(self.given_probabilities.argmax(axis=1))

    @property
    def reference_NR(self) -> _Matrix | None:
        """Another model's features of the same images, scaled like ``features_ND``; a new copy each time."""
        if self._raw_reference is None:
            return None
        raw_NR, scale = self._raw_reference
        if self.workspace.holds(*raw_NR.shape):
            return scaled(raw_NR, scale)
        return self.filled(raw_NR.shape[1], lambda rows: scaled(raw_NR[rows], scale))

    @cached_property
    def class_order_N(self) -> NDArray[np.intp]:
        """The images class by class."""
        return np.argsort(self.labels_N, kind="stable")

    @cached_property
    def class_members(self) -> list[NDArray[np.intp]]:
        """The images of every class."""
        return np.split(self.class_order_N, np.cumsum(self.counts_C)[:-1])

    @cached_property
    def counts_C(self) -> NDArray[np.intp]:
        """Images per class."""
        return np.bincount(self.labels_N, minlength=self.num_classes)

    @cached_property
    def one_hot_NC(self) -> _Matrix:
        """1.0 where an image belongs to a class."""
        return frozen(np.eye(self.num_classes)[self.labels_N])

    def class_parts(self) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Yield (class, images of it, as many as may be copied); a class may come more than once, in a row."""
        size = self.workspace.block_rows(self.num_dimensions) if self.streamed else self.num_images
        for label, images_I in enumerate(self.class_members):
            for start in range(0, len(images_I), size):
                yield label, images_I[start : start + size]

    @cached_property
    def class_sums_CD(self) -> _Matrix:
        """Sum of the centred rows of every class."""
        return frozen(self.sums_by_class(self.centred_ND))

    @cached_property
    def scatter_MM(self) -> _Matrix:
        """The smaller of the centred Gram matrix (N x N, when ``wide``) and the scatter matrix (D x D)."""
        size = min(self.num_images, self.num_dimensions)
        self.workspace.demand(size**2, f"The matrix of {size} x {size} inner products")
        return frozen((self.products.gram if self.wide else self.products.scatter)(self.centred_ND))

    @cached_property
    def gram_energy_N(self) -> _Matrix:
        """Row sums of the squared entries of the centred Gram matrix, which is not formed unless it is the smaller."""
        if self.gram_known or (self.wide and not self.decomposed):
            return frozen(np.einsum("nm,nm->n", self.scatter_MM, self.scatter_MM))
        if self.wide:
            values_M, vectors_MM = self.spectrum
            return frozen(np.einsum("nm,nm,m->n", vectors_MM, vectors_MM, np.square(values_M)))
        return frozen(self.energy_of(self.centred_ND, self.scatter_MM))

    @property
    def energy(self) -> float:
        """Sum of the squared entries of the centred Gram matrix, which are those of the scatter matrix too."""
        if self.decomposed:
            return float(np.square(self.spectrum[0]).sum())
        return float(np.einsum("ij,ij->", self.scatter_MM, self.scatter_MM))

    def energy_of(self, rows_ND: _Matrix, scatter_DD: _Matrix) -> _Matrix:
        """Return the row sums of the squared entries of a Gram matrix from the scatter matrix of the same rows."""
        energy_N = np.empty(self.num_images)
        for part in self.parts():
            energy_N[part] = np.einsum("nd,nd->n", self.products.times(rows_ND[part], scatter_DD), rows_ND[part])
        return energy_N

    @cached_property
    def spectrum(self) -> tuple[_Matrix, _Matrix]:
        """Eigenvalues of ``scatter_MM``, largest first and never negative, and its eigenvectors as columns.

        Those of the Gram matrix sum to zero: what is the same for all images, an eigenvector of value zero, is taken
        out of them.
        """
        scatter_MM = self.scatter_MM
        if self.wide:
            # Each as large as the features, seldom asked for again, and then formed in a fraction of this one's time.
            self.__dict__.pop("centred_ND", None)
            self.__dict__.pop("scatter_MM")
        overwritten_MM = scatter_MM.copy()
        del scatter_MM
        values_M, vectors_MM = self.products.eigh(overwritten_MM)
        if self.wide:
            vectors_MM -= vectors_MM.mean(axis=0)
        return frozen(np.maximum(values_M, 0.0)), frozen(vectors_MM)

    @cached_property
    def principal_NM(self) -> _Matrix:
        """Centred features in the coordinates of their principal axes: an exact rotation to M dimensions."""
        values_M, vectors_MM = self.spectrum
        if self.wide:
            return frozen(vectors_MM * np.sqrt(values_M))
        if not self.streamed:
            return frozen(self.products.times(self.centred_ND, vectors_MM))
        return frozen(self.filled(len(values_M), lambda rows: self.products.times(self.centred_ND[rows], vectors_MM)))

    def principal_rows(self, images: slice) -> _Matrix:
        """Return some rows of ``principal_NM``, which is not formed for them."""
        values_M, vectors_MM = self.spectrum
        return np.asarray(vectors_MM[images] * np.sqrt(values_M)) if self.wide else self.principal_NM[images]

    @cached_property
    def coordinates_NK(self) -> _Matrix:
        """Centred features without needless dimensions: rows with the same inner products, K <= min(N, D).

        They are the centred features themselves when there are at least as many images as dimensions, else the rows
        of a Cholesky factor of the Gram matrix, a tenth of the work of its eigen-decomposition. A score that does not
        change under rotations may use them in place of ``centred_ND``.
        """
        if not self.wide:
            return self.centred_ND
        if self.constant:
            return frozen(np.zeros((self.num_images, 1)))
        coordinates_NK = independent_rows(self.scatter_MM)
        if coordinates_NK is not None:
            return frozen(coordinates_NK)
        factor_NN, pivots_N, rank, _ = dpstrf(self.scatter_MM, lower=1, tol=-1.0)
        coordinates_NK = np.empty((self.num_images, rank))
        coordinates_NK[pivots_N - 1] = np.tril(factor_NN)[:, :rank]
        return frozen(coordinates_NK)

    @cached_property
    def coordinate_sums_CK(self) -> _Matrix:
        """Sum of the coordinates of every class."""
        return frozen(self.sums_by_class(self.coordinates_NK)) if self.wide else self.class_sums_CD

    @cached_property
    def coordinate_scatter_KK(self) -> _Matrix:
        """Scatter matrix of the coordinates."""
        return frozen(self.products.scatter(self.coordinates_NK)) if self.wide else self.scatter_MM

    @cached_property
    def within_scatter_KK(self) -> _Matrix:
        """Scatter matrix of the coordinates about their class means."""
        scaled_CK = self.coordinate_sums_CK / np.sqrt(self.counts_C)[:, None]
        within_KK = scaled_CK.T @ scaled_CK
        return frozen(np.subtract(self.coordinate_scatter_KK, within_KK, out=within_KK))

    @cached_property
    def class_means_CD(self) -> _Matrix:
        """Mean of the centred rows of every class."""
        return frozen(self.class_sums_CD / self.counts_C[:, None])

    @cached_property
    def residual_norms_N(self) -> _Matrix:
        """Squared distance of every row from the mean of its class."""
        norms_N = np.empty(self.num_images)
        for label, images_I in self.class_parts():
            residual_ID = self.centred_ND[images_I] - self.class_means_CD[label]
            norms_N[images_I] = np.einsum("id,id->i", residual_ID, residual_ID)
        return frozen(norms_N)

    def sums_by_class(self, rows_NK: _Matrix) -> _Matrix:
        """Return the sum of the rows of every class."""
        if self.num_classes <= _FEW_CLASSES:
            return np.asarray(self.one_hot_NC.T @ rows_NK)
        sums_CK = np.zeros((self.num_classes, rows_NK.shape[1]))
        for label, images_I in self.class_parts():
            sums_CK[label] += np.ones(len(images_I)) @ rows_NK[images_I]
        return sums_CK

    def own_products(self, rows_ND: _Matrix, vectors_CD: _Matrix) -> _Matrix:
        """Return the inner product of every row with the vector of its class."""
        products_N = np.empty(self.num_images)
        for label, images_I in self.class_parts():
            products_N[images_I] = rows_ND[images_I] @ vectors_CD[label]
        return products_N

    @property
    def gram_known(self) -> bool:
        """Whether the centred Gram matrix has been formed."""
        return self.wide and "scatter_MM" in self.__dict__

    def gram_rows(self, images_I: Part) -> _Matrix:
        """Return some rows of the centred Gram matrix."""
        if self.wide:
            return self.scatter_MM[images_I]
        return np.asarray(self.products.times(self.centred_ND[images_I], self.centred_ND.T))


# Kept apart, so that a panel with other labels does not take them over.
_OF_LABELS = frozenset(
    {
        "labels_N",
        "num_classes",
        "counts_C",
        "class_order_N",
        "class_members",
        "one_hot_NC",
        "class_sums_CD",
        "class_means_CD",
        "residual_norms_N",
        "coordinate_sums_CK",
        "within_scatter_KK",
    }
)
