"""From a few images to many by the kernel's spectrum: arXiv:2008.12478, Appendix D. Squared loss, full batches.

Legend: N0 images of the kernel, N images of the data set, C classes, K modes, T steps and the start.

The paper's rule: fit lambda_k = c k^-s to the kernel's eigenvalues over N0; for N images take c k^(-s + alpha (N0/N -
1)), alpha between .1 and .2. Keep the first ``kept`` energies p_k = (dy . v_k)^2 of the outputs' distance dy from the
labels, and continue them by a power law a k^-b whose sum with the kept ones is |dy|^2 of all N images, which is known
without any kernel. Then L_t = sum p_k exp(-2 rate lambda_k t).

The paper drops the square of dy . v_k where the sum needs it; it is put back here. Energies are taken per image, over
N0 and N: it is these that tend to a limit as images are added. With every class a mode per image, k runs to N C.
"""

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from app.domain.errors import EvaluationFailed
from app.forecasting.frozen_kernel import FrozenKernel
from app.forecasting.linearisation import Linearisation
from app.forecasting.losses import one_hot_CN
from app.forecasting.training import Training

_Array = NDArray[np.float64]
_ZERO = 1e-10  # of the largest eigenvalue
KEPT = 100
ALPHA = 0.15


def loss_curve_T(
    linearisation: Linearisation, training: Training, *, num_images: int, kept: int = KEPT, alpha: float = ALPHA
) -> _Array:
    """Return the mean squared loss of ``num_images`` images at the times of all steps.

    Args:
        linearisation: its kernel's images are N0; further images count towards |dy|^2.
        training: its loss has to be the squared one.
        num_images: N.
        kept: energies that are taken as they are; half of all modes where that is fewer.
        alpha: how much steeper the spectrum gets.

    Raises:
        EvaluationFailed: ``forecast_loss``: another loss. ``forecast_spectrum``: fewer than three modes. Also
            ``forecast_too_large``.
    """
    if training.loss != "squared":
        raise EvaluationFailed(
            "forecast_loss",
            "The spectral rule holds for the squared loss only.",
            param="extrapolation",
            hint="Use nested subsets for cross-entropy.",
        )
    kernel = FrozenKernel(linearisation)
    images = linearisation.num_images
    modes = kernel.modes()
    values_K = modes.values_CN.ravel() / images
    order_K = np.argsort(-values_K, kind="stable")
    values_K = values_K[order_K]
    energies_K = modes.project(kernel.outputs_CN - kernel.target_CN).ravel()[order_K] ** 2 / images
    scale, exponent = _power_law(values_K)
    count = linearisation.num_classes * num_images
    rank_K = np.arange(1, count + 1, dtype=np.float64)
    rate_K = scale * rank_K ** (exponent + alpha * (images / num_images - 1))
    energy_K = _continued(energies_K, _energy_per_image(linearisation), kept, count)
    time_T = np.concatenate([[0.0], np.cumsum(training.effective_rates)])
    return np.array([0.5 * float(energy_K @ np.exp(-2 * rate_K * time)) for time in time_T])


def _power_law(values_K: _Array) -> tuple[float, float]:
    """Return c and the (negative) exponent of the line through the logarithms."""
    positive_K = values_K[values_K > _ZERO * values_K[0]]
    if len(positive_K) < 3:
        raise EvaluationFailed(
            "forecast_spectrum",
            f"The kernel has {len(positive_K)} modes, too few for a power law.",
            param="extrapolation",
            hint="Measure more images.",
        )
    exponent, intercept = np.polyfit(np.log(np.arange(1, len(positive_K) + 1)), np.log(positive_K), 1)
    return float(np.exp(intercept)), float(exponent)


def _energy_per_image(linearisation: Linearisation) -> float:
    """Return |f0 - Y|^2 / N of all images whose features are known."""
    features = np.vstack([linearisation.features_ND, linearisation.further_MD])
    labels = np.concatenate([linearisation.labels_N, linearisation.further_labels_M])
    outputs_CN = linearisation.head_CD @ features.T + linearisation.bias_C[:, None]
    return float(((outputs_CN - one_hot_CN(labels, linearisation.num_classes)) ** 2).sum() / len(labels))


def _continued(energies_K: _Array, total: float, kept: int, count: int) -> _Array:
    """Return the energies of ``count`` modes: the first as measured, then a power law that makes up the total."""
    if count <= len(energies_K):
        return energies_K[:count]
    first = min(kept, len(energies_K))
    remainder = total - float(energies_K[: first - 1].sum())
    if first == len(energies_K) or remainder <= 0:
        first = max(1, len(energies_K) // 2)
        remainder = total - float(energies_K[: first - 1].sum())
    rank_K = np.arange(first, count + 1, dtype=np.float64) / first
    # The single energy at the seam scatters; its neighbours' mean stands for it.
    start = float(energies_K[max(0, first - 6) : first + 5].mean())
    if remainder <= start or start <= 0:
        return np.concatenate([energies_K[: first - 1], [max(remainder, 0.0)], np.zeros(count - first)])

    def excess(exponent: float) -> float:
        return start * float((rank_K**-exponent).sum()) - remainder

    exponent = 0.0 if excess(0.0) <= 0 else float(scipy.optimize.brentq(excess, 0.0, 60.0))
    tail_K = start * rank_K**-exponent
    return np.concatenate([energies_K[: first - 1], tail_K * (remainder / tail_K.sum())])
