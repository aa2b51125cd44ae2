"""Inner products of the gradients of some scalars of a model's features, image by image.

Legend: P probes, N images.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class GradientKernels:
    """One kernel for each scalar u_p . phi(x), the probe u_p being a direction of the features phi.

    With g_i the gradient of image i and m the mean gradient of all images, the inner product of g_i and g_j is
    ``centred[i, j] + towards_mean[i] + towards_mean[j] + mean_square``: three parts that are kept apart, since beside a
    mean that all images share what tells them apart may be lost to rounding.

    Attributes:
        centred_PNN: (g_i - m) . (g_j - m), in float64.
        towards_mean_PN: (g_i - m) . m.
        mean_square_P: m . m.
        drawn: whether the probes are a random draw, so that another one would give other kernels.
    """

    centred_PNN: NDArray[np.float64]
    towards_mean_PN: NDArray[np.float64]
    mean_square_P: NDArray[np.float64]
    drawn: bool = True

    def mean(self) -> "GradientKernels":
        """Return the kernels' mean over the probes, as those of one probe: a kernel of all of them."""
        return GradientKernels(
            self.centred_PNN.mean(axis=0, keepdims=True),
            self.towards_mean_PN.mean(axis=0, keepdims=True),
            self.mean_square_P.mean(keepdims=True),
            self.drawn,
        )
