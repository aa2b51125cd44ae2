"""Training under the frozen kernel as a stochastic differential equation: arXiv:2008.12478, Proposition 1.

Legend: S seeds, C classes, N images.

df = -rate K grad L dt + rate / sqrt(B) G Sigma^(1/2) dn, with G the gradients of all outputs and Sigma the covariance
of the images' gradients. The paper keeps Sigma's diagonal, taken once. The exact covariance costs nothing more: with
K_i the kernel's columns of image i and r_i its residual, G Sigma G' = mean_i (K_i r_i)(K_i r_i)' - mean mean', so
that N^(-1/2) sum_i (xi_i - mean xi) K_i r_i with N standard normal numbers xi has that covariance. A step of Euler
and Maruyama is then one product with the kernel, of residuals weighted by 1 / N + (xi_i - mean xi) / sqrt(N B).

As in the paper batches are drawn with replacement, momentum enters as rate / (1 - momentum), and a full batch has no
noise. Kept for comparison: exact mini-batch SGD under the same kernel costs the same.
"""

from collections.abc import Sequence

import numpy as np

from app.forecasting.curve import Curve, recorded
from app.forecasting.frozen_kernel import FrozenKernel, look
from app.forecasting.linearisation import Linearisation
from app.forecasting.training import Training


def simulate(linearisation: Linearisation, training: Training, *, seeds: Sequence[int] = (0,)) -> Curve:
    """Return loss and accuracy after every step, one of time each, for one path of the noise a seed."""
    kernel = FrozenKernel(linearisation)
    images = linearisation.num_images
    noise = 0.0 if training.batch_size >= images else (images * training.batch_size) ** -0.5
    generators = [np.random.default_rng(seed) for seed in seeds]
    change_SCN = np.zeros((len(seeds), *kernel.target_CN.shape))
    losses, shares = [], []
    with np.errstate(over="ignore", invalid="ignore"):
        for rate in [*training.effective_rates, 0.0]:
            residual_SCN, loss_S, share_S = look(kernel, training, kernel.outputs_CN + change_SCN)
            losses.append(loss_S)
            shares.append(share_S)
            normal_SN = np.stack([generator.standard_normal(images) for generator in generators])
            weight_SN = 1 / images + noise * (normal_SN - normal_SN.mean(axis=1, keepdims=True))
            gradient_SCN = kernel.times(residual_SCN * weight_SN[:, None])
            if training.weight_decay:
                gradient_SCN += training.weight_decay * (kernel.decay_CN + change_SCN)
            change_SCN -= rate * gradient_SCN
    return recorded(losses, shares)
