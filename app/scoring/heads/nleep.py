"""N-LEEP: LEEP for models without a classifier, with the components of a Gaussian mixture as source classes.

Legend: N images, M = min(N, D) principal axes, K kept axes.
"""

import math
import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from app.scoring.contract import Result
from app.scoring.heads.leep import log_expected_prediction
from app.scoring.panel import Panel

ENERGY = 0.8
SEEDS = 5
COMPONENTS_PER_CLASS = 5
IMAGES_PER_COMPONENT = 10
_STEPS = 100


def nleep(panel: Panel) -> Result:
    """Return LEEP on the mixture's responsibilities, in nats per image, averaged over five fits.

    Features are projected to the principal axes that hold 80 % of their variance and divided by their root mean square
    length. The mixture has spherical components: five per class, but at most one for ten images, or the fit would give
    every image a component of its own and the score would be perfect whatever the features; at least two, and never
    more than there are different images.

    Source: Li et al. 2021, arXiv:2011.11200, Section 3.

    Raises:
        EvaluationFailed: ``too_many_images``: the mixture needs all images in memory.
    """
    if panel.constant:
        shares_C = panel.counts_C / panel.num_images
        return Result(value=float(shares_C @ np.log(shares_C)), warnings=("constant_features",))
    points_NK = _principal(panel)
    components = max(2, min(COMPONENTS_PER_CLASS * panel.num_classes, panel.num_images // IMAGES_PER_COMPONENT))
    components = min(components, len(np.unique(points_NK, axis=0)))
    values, influences, converged = [], [], True
    for seed in range(SEEDS):
        responsibilities_NZ, ended = _responsibilities(points_NK, components, seed)
        value, influence_N = log_expected_prediction(responsibilities_NZ, panel.labels_N, panel.num_classes)
        values.append(value)
        influences.append(influence_N)
        converged &= ended
    return Result(
        value=float(np.mean(values)),
        stderr=_stderr(np.mean(influences, axis=0), np.array(values)),
        warnings=() if converged else ("not_converged",),
    )


def _stderr(influence_N: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Return the standard error over the draw of the images and of the seeds, the mixtures taken as given."""
    images = len(influence_N)
    return math.sqrt(images * float(influence_N.var(ddof=1)) + float(values.var(ddof=1)) / len(values))


def _principal(panel: Panel) -> NDArray[np.float64]:
    values_M, _ = panel.spectrum
    kept = min(int(np.searchsorted(np.cumsum(values_M), ENERGY * values_M.sum())) + 1, len(values_M))
    panel.workspace.demand(panel.num_images * kept, f"A mixture of {panel.num_images} images in {kept} dimensions")
    points_NK = panel.principal_NM[:, :kept]
    return np.asarray(points_NK / np.sqrt(np.einsum("nk,nk->", points_NK, points_NK) / panel.num_images))


def _responsibilities(points_NK: NDArray[np.float64], components: int, seed: int) -> tuple[NDArray[np.float64], bool]:
    mixture = GaussianMixture(components, covariance_type="spherical", max_iter=_STEPS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told as a code of the result
        mixture.fit(points_NK)
    return mixture.predict_proba(points_NK), bool(mixture.converged_)
