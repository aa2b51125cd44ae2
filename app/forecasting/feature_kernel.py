"""How far the features of images move when they are pulled: the kernel of the features' gradients.

Legend: S seeds, N images, B of them, M images of which N were measured, Q directions.

With J_i the derivative of image i's features with respect to the weights, and q_a directions of the features, the
kernel's entry at (a, i), (b, j) is q_a' J_i J_j' q_b.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]
_Kernel = NDArray[np.floating[Any]]


class FeatureKernel(Protocol):
    """A symmetric kernel without negative eigenvalues."""

    @property
    def num_images(self) -> int:
        """N."""

    def times(self, force_QN: _Array) -> _Array:
        """Return the kernel times a force on every image and direction (..., Q, N): how the features answer to it."""

    def times_batch(self, force_SQB: _Array, images_SB: NDArray[np.intp]) -> _Array:
        """Return the same (S, Q, N) for forces on a few images, others for every seed, and none elsewhere."""

    def subset(self, images_K: NDArray[np.intp]) -> "FeatureKernel":
        """Return the kernel of some of the images."""


@dataclass(frozen=True, eq=False)
class ClassKernel:
    """Every entry is known: direction first, image second.

    A kernel that came in float32 stays so: most of a simulation is reading it.
    """

    values_QNQN: _Kernel

    @property
    def num_images(self) -> int:
        """N."""
        return int(self.values_QNQN.shape[1])

    def times(self, force_QN: _Array) -> _Array:
        """Return the kernel times a force (..., Q, N)."""
        size = self.values_QNQN.shape[0] * self.num_images
        flat = force_QN.reshape(-1, size).astype(self.values_QNQN.dtype, copy=False)
        moved = flat @ self.values_QNQN.reshape(size, size)
        return moved.reshape(force_QN.shape).astype(np.float64, copy=False)

    def times_batch(self, force_SQB: _Array, images_SB: NDArray[np.intp]) -> _Array:
        """Return the kernel times a force on a few images (S, Q, N); only their rows are read."""
        directions, images = self.values_QNQN.shape[:2]
        moved = np.empty((len(force_SQB), directions, images))
        for seed, (force_QB, images_B) in enumerate(zip(force_SQB, images_SB, strict=True)):
            rows = self.values_QNQN[:, images_B].reshape(force_QB.size, -1)
            flat = force_QB.ravel().astype(rows.dtype, copy=False) @ rows
            moved[seed] = flat.reshape(directions, images)
        return moved

    def subset(self, images_K: NDArray[np.intp]) -> "ClassKernel":
        """Return the kernel of some of the images."""
        return ClassKernel(self.values_QNQN[:, images_K][..., images_K])


@dataclass(frozen=True, eq=False)
class TraceKernel:
    """The same inner products for every direction, and none between two: K (x) I_Q."""

    values_NN: _Kernel

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.values_NN)

    def times(self, force_QN: _Array) -> _Array:
        """Return the kernel times a force (..., Q, N)."""
        moved_QN = force_QN.astype(self.values_NN.dtype, copy=False) @ self.values_NN
        return moved_QN.astype(np.float64, copy=False)

    def times_batch(self, force_SQB: _Array, images_SB: NDArray[np.intp]) -> _Array:
        """Return the kernel times a force on a few images (S, Q, N); only their rows are read."""
        moved_SQN = force_SQB.astype(self.values_NN.dtype, copy=False) @ self.values_NN[images_SB]
        return moved_SQN.astype(np.float64, copy=False)

    def subset(self, images_K: NDArray[np.intp]) -> "TraceKernel":
        """Return the kernel of some of the images."""
        return TraceKernel(self.values_NN[np.ix_(images_K, images_K)])


@dataclass(frozen=True, eq=False)
class ExtendedKernel:
    """A measured kernel K carried over to more images: P K P' + R (x) A.

    It is never written out: (M Q)^2 numbers would be read at every step, and (N Q)^2 + M^2 do.

    Attributes:
        measured: K.
        weight_MN: P, how much each image moves with each measured one.
        rest_MM: R, what images have in common beyond that.
        across_QQ: A, how the directions go together in it.
    """

    measured: FeatureKernel
    weight_MN: _Array
    rest_MM: _Array
    across_QQ: _Array

    @property
    def num_images(self) -> int:
        """M."""
        return len(self.rest_MM)

    def times(self, force_QM: _Array) -> _Array:
        """Return the kernel times a force (..., Q, M)."""
        with_measured_QM = self.measured.times(force_QM @ self.weight_MN) @ self.weight_MN.T
        return np.asarray(with_measured_QM + self.across_QQ @ (force_QM @ self.rest_MM))

    def times_batch(self, force_SQB: _Array, images_SB: NDArray[np.intp]) -> _Array:
        """Return the kernel times a force on a few images (S, Q, M); of P and R only their rows are read."""
        with_measured_SQM = self.measured.times(force_SQB @ self.weight_MN[images_SB]) @ self.weight_MN.T
        return np.asarray(with_measured_SQM + self.across_QQ @ force_SQB @ self.rest_MM[images_SB])

    def subset(self, images_K: NDArray[np.intp]) -> "ExtendedKernel":
        """Return the kernel of some of the images."""
        rest_KK = self.rest_MM[np.ix_(images_K, images_K)]
        return ExtendedKernel(self.measured, self.weight_MN[images_K], rest_KK, self.across_QQ)
