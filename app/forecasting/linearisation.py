"""A pretrained network around its weights: features, their gradient kernel, labels, checked.

Legend: N images of the kernel, M images of the features (the first N are those of the kernel), D feature dimensions,
Q directions, C classes.

With phi(x; theta) the features, J_i the derivative of image i's features with respect to theta and q_1 .. q_Q
orthonormal directions of the features (columns of ``basis_DQ``), the class kernel's entry at (i, a), (j, b) is
q_a' J_i J_j' q_b.

The trace kernel K stands for K (x) I_Q. Of N x N numbers instead of (N Q)^2, it is the mean over probes u of the Gram
matrix of the gradients of u . phi. For probes with E[u u'] = s I_D the mean Gram matrix is s tr(J_i J_j'), and a single
unit direction has tr(J_i J_j') / D on average: what makes the one the other is 1 / (s D), which is 1 for u ~ N(0, I /
D), or u evenly on the unit sphere.
Better: u = Q z with z ~ N(0, I / Q), whose mean is the average over the Q directions that the head uses, again
without a factor: features differ in how much they can be moved, and random directions mix in those of no use. On two
small networks the time to half the loss came out 1.3 to 1.9 times too long from four probes, or all D directions, of
the first kind, and at most 1.3 times from four of the second.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.forecasting.feature_kernel import ClassKernel, FeatureKernel, TraceKernel
from app.forecasting.measured_arrays import check_classes, checked_basis, checked_kernel, checked_labels, expect, finite

_Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Linearisation:
    """The arrays of one network and data set. Use ``linearise`` to make one: it checks.

    Attributes:
        features_ND: phi at the pretrained weights, of the kernel's images.
        labels_N: class numbers.
        num_classes: outputs of the head, C.
        basis_DQ: orthonormal directions of the features; no columns: the backbone is frozen.
        kernel: of the features' gradients; None when the backbone is frozen.
        decay_QN: Q' J_i theta0, where weight decay pulls the features; None where it was not measured.
        head_CD: the head's weight at the start.
        bias_C: its bias.
        further_MD: features of further images, without gradients.
        further_labels_M: their classes.
        warnings: what was mended.
    """

    features_ND: _Array
    labels_N: NDArray[np.intp]
    num_classes: int
    basis_DQ: _Array
    kernel: FeatureKernel | None
    decay_QN: _Array | None
    head_CD: _Array
    bias_C: _Array
    further_MD: _Array
    further_labels_M: NDArray[np.intp]
    warnings: tuple[str, ...] = ()

    @property
    def num_images(self) -> int:
        """N, the images that are simulated."""
        return len(self.labels_N)

    @property
    def num_directions(self) -> int:
        """Q; 0 for a frozen backbone."""
        return int(self.basis_DQ.shape[1])

    @property
    def zero_head(self) -> bool:
        """Whether the head starts at zero, so that the backbone has no gradient at the first step."""
        return not self.head_CD.any() and not self.bias_C.any()

    def without_backbone(self) -> "Linearisation":
        """Return the network with a frozen backbone, whose training is that of a linear probe, exactly."""
        frozen = np.zeros((self.features_ND.shape[1], 0))
        return dataclasses.replace(self, basis_DQ=frozen, kernel=None, decay_QN=None)

    def subset(self, images_K: NDArray[np.intp]) -> "Linearisation":
        """Return the network on some of the kernel's images; further images are left out."""
        decay = self.decay_QN
        dimensions = self.features_ND.shape[1]
        return dataclasses.replace(
            self,
            features_ND=self.features_ND[images_K],
            labels_N=self.labels_N[images_K],
            kernel=None if self.kernel is None else self.kernel.subset(images_K),
            decay_QN=None if decay is None else decay[:, images_K],
            further_MD=np.zeros((0, dimensions)),
            further_labels_M=np.zeros(0, dtype=np.intp),
        )

    def moved_QN(self, force_QN: _Array) -> _Array:
        """Return how the features answer to a force on every image and direction (..., Q, N)."""
        return np.zeros_like(force_QN) if self.kernel is None else self.kernel.times(force_QN)

    def moved_by_batch_SQN(self, force_SQB: _Array, images_SB: NDArray[np.intp]) -> _Array:
        """Return how the features of all images answer to forces on a few of them, for several seeds."""
        if self.kernel is None:
            return np.zeros((*force_SQB.shape[:2], self.num_images))
        return self.kernel.times_batch(force_SQB, images_SB)


def linearise(
    features_MD: ArrayLike,
    labels_M: ArrayLike,
    *,
    num_classes: int | None = None,
    basis_DQ: ArrayLike | None = None,
    class_kernel_PP: ArrayLike | None = None,
    trace_kernel_NN: ArrayLike | None = None,
    decay_NQ: ArrayLike | None = None,
    head_CD: ArrayLike | None = None,
    bias_C: ArrayLike | None = None,
) -> Linearisation:
    """Check and arrange what was measured of a network.

    Args:
        features_MD: features at the pretrained weights; the kernel's images come first.
        labels_M: class numbers from 0.
        num_classes: outputs of the head; None: one more than the largest label.
        basis_DQ: orthonormal directions, as columns; without one the backbone is frozen.
        class_kernel_PP: P = N Q rows and columns, index (image, direction), the direction running fastest.
        trace_kernel_NN: see the module for its scale.
        decay_NQ: Q' J_i theta0.
        head_CD: the head's weight at the start; None: zero.
        bias_C: its bias at the start; None: zero.

    Raises:
        EvaluationFailed: ``forecast_not_finite``, ``forecast_shape``, ``forecast_labels``,
            ``forecast_one_class``, ``forecast_few_images``, ``forecast_basis``, ``forecast_asymmetric``,
            ``forecast_indefinite``; ``param`` is the array.
    """
    features = finite("features_MD", features_MD, 2)
    expect(features.shape[1] >= 1, "features_MD", features.shape, "(images, dimensions)")
    labels, classes = checked_labels(labels_M, len(features), num_classes)
    dimensions = features.shape[1]
    head = np.zeros((classes, dimensions)) if head_CD is None else finite("head_CD", head_CD, 2)
    bias = np.zeros(classes) if bias_C is None else finite("bias_C", bias_C, 1)
    expect(head.shape == (classes, dimensions), "head_CD", head.shape, (classes, dimensions))
    expect(bias.shape == (classes,), "bias_C", bias.shape, (classes,))
    basis = np.zeros((dimensions, 0)) if basis_DQ is None else checked_basis(basis_DQ, dimensions)
    kernels = [kernel for kernel in (class_kernel_PP, trace_kernel_NN) if kernel is not None]
    expect(len(kernels) == (basis.shape[1] > 0), "kernel", f"{len(kernels)} kernels", "one with a basis, else none")

    count = len(features)
    warnings: list[str] = []
    measured: FeatureKernel | None = None
    if class_kernel_PP is not None:
        kernel, warnings = checked_kernel("class_kernel_PP", class_kernel_PP)
        count, rest = divmod(len(kernel), basis.shape[1])
        expect(rest == 0 and count <= len(features), "class_kernel_PP", kernel.shape, "images x directions, squared")
        by_image = kernel.reshape(count, basis.shape[1], count, basis.shape[1])
        measured = ClassKernel(np.ascontiguousarray(by_image.transpose(1, 0, 3, 2)))
    if trace_kernel_NN is not None:
        kernel, warnings = checked_kernel("trace_kernel_NN", trace_kernel_NN)
        count = len(kernel)
        expect(count <= len(features), "trace_kernel_NN", kernel.shape, "as many rows as images, or fewer")
        measured = TraceKernel(kernel)
    decay = None if decay_NQ is None else finite("decay_NQ", decay_NQ, 2)
    if decay is not None:
        expect(decay.shape == (count, basis.shape[1]), "decay_NQ", decay.shape, (count, basis.shape[1]))
        decay = np.ascontiguousarray(decay.T)
    check_classes(labels[:count], classes)
    return Linearisation(
        features_ND=features[:count],
        labels_N=labels[:count],
        num_classes=classes,
        basis_DQ=basis,
        kernel=measured,
        decay_QN=decay,
        head_CD=head,
        bias_C=bias,
        further_MD=features[count:],
        further_labels_M=labels[count:],
        warnings=tuple(warnings),
    )
