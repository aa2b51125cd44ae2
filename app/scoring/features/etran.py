"""ETran: an energy that knows no labels, and a discriminant analysis; as published, and mended.

Legend: N images, B of them in a block, D feature dimensions, C classes.

The published score is .15 energy + .85 class part, each scaled to 0..1 over the candidates. Its code computes something
other than its paper says: the energy runs over feature coordinates in place of class logits, and an eigen-decomposition
for symmetric matrices is applied to one that is not, which leaves the nearest class mean in the metric of the features.
``etran_energy`` and ``etran_class`` are what the code computes, the ``mended`` pair is independent of the unit of the
features and has the covariance back.
"""

import numpy as np
from numpy.typing import NDArray

from app.scoring.contract import Result
from app.scoring.features.discriminant import ledoit_wolf
from app.scoring.features.sfda import Points, log_posteriors
from app.scoring.panel import Panel

_Array = NDArray[np.float64]

_PER_MILLE = 5  # of the images, those of the lowest energy
_LARGEST_FACTOR = 1e280  # keeps logits finite; they are long saturated


def etran_energy(panel: Panel) -> Result:
    """Return the mean log-sum-exp over feature coordinates of the 0.5 % of images where it is lowest, at least one.

    Source: Gholami et al. 2023, arXiv:2308.02027, energy score, as their code has it.
    """
    energy_N = np.empty(panel.num_images)
    for part in panel.parts():
        rows_BD = panel.features_ND[part]
        largest_B = rows_BD.max(axis=1)
        spread_BD = (rows_BD - largest_B[:, None]) * min(panel.scale, _LARGEST_FACTOR)
        energy_N[part] = largest_B * panel.scale + np.log(np.exp(spread_BD, out=spread_BD).sum(axis=1))
    return Result(value=_lowest(energy_N), warnings=("constant_features",) * panel.constant)


def etran_mended_energy(panel: Panel) -> Result:
    """Return the same of features divided by their root mean square entry, minus log D: width and unit do not count.

    Source: Gholami et al. 2023, arXiv:2308.02027, energy score, changed as said.
    """
    warnings = ("constant_features",) * panel.constant
    features_ND = panel.features_ND
    size = float(np.sqrt(np.einsum("nd,nd->", features_ND, features_ND) / features_ND.size))
    if size == 0.0:
        return Result(value=0.0, warnings=warnings)
    energy_N = np.empty(panel.num_images)
    for part in panel.parts():
        rows_BD = features_ND[part] / size
        largest_B = rows_BD.max(axis=1)
        rows_BD -= largest_B[:, None]
        energy_N[part] = largest_B + np.log(np.exp(rows_BD, out=rows_BD).mean(axis=1))
    return Result(value=_lowest(energy_N), warnings=warnings)


def etran_class(panel: Panel) -> Result:
    """Return the mean softmax, at the true class, of x.m_c - |m_c|^2 / 2 + log share of c, m_c the class means.

    Source: Gholami et al. 2023, arXiv:2308.02027, classification score, as their code has it.
    """
    means_CD = panel.class_means_CD
    closeness_NC = panel.centred_ND @ means_CD.T - 0.5 * np.einsum("cd,cd->c", means_CD, means_CD)
    factor = panel.scale**2 if abs(np.log2(panel.scale)) < 460 else (_LARGEST_FACTOR if panel.scale > 1 else 0.0)
    logits_NC = factor * (closeness_NC - closeness_NC.max(axis=1, keepdims=True))
    logits_NC += np.log(panel.counts_C / panel.num_images)
    logits_NC -= logits_NC.max(axis=1, keepdims=True)
    odds_NC = np.exp(logits_NC)
    own_N = odds_NC[np.arange(panel.num_images), panel.labels_N] / odds_NC.sum(axis=1)
    return Result(value=float(own_N.mean()), warnings=("constant_features",) * panel.constant)


def etran_mended_class(panel: Panel) -> Result:
    """Return the mean posterior of the true class under linear discriminant analysis with Ledoit-Wolf shrinkage.

    Means and covariance are of the same images, as in the paper; ``lda_likelihood`` leaves each image out.

    Source: Gholami et al. 2023, arXiv:2308.02027, classification score, with the covariance of Ledoit
    and Wolf 2004.
    """
    log_posterior_NC = log_posteriors(panel, Points.of(panel), ledoit_wolf(panel).intensity)
    own_N = np.exp(log_posterior_NC[np.arange(panel.num_images), panel.labels_N])
    return Result(value=float(own_N.mean()), warnings=("constant_features",) * panel.constant)


def _lowest(energy_N: _Array) -> float:
    images = max(1, _PER_MILLE * len(energy_N) // 1000)
    return float(np.sort(energy_N)[:images].mean())
