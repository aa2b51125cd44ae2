"""Label-gradient correlation, and the other scores that the kernel of the gradients takes the features' place in.

Legend: N images, P probes, K coordinates. The kernel's entry ij is the inner product of the gradients of u . phi(x_i)
and u . phi(x_j) by all parameters, averaged over random directions u: the empirical neural tangent kernel of the
features. A linear classifier trained on top moves along its features' kernel, one trained together with its model
along this one as well: each score here is a score of features (named beside it), of the gradients instead.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from app.domain.resampling import stratified_stderr
from app.scoring.contract import Result
from app.scoring.features import alignment, lfc, ridge
from app.scoring.gradients.panels import gradient_panel, panels_without_a_probe
from app.scoring.panel import Panel


def lgc(panel: Panel) -> Result:
    """Correlate all N^2 entries of the kernel with the same-label matrix, as ``lfc`` does.

    Source: arXiv:2102.00084, Eq. 8.
    """
    return _of_gradients(lfc.lfc, panel)


def lgc_offdiagonal(panel: Panel) -> Result:
    """Correlate the N(N-1) entries off the diagonal, as ``lfc_offdiagonal`` does.

    Source: arXiv:2102.00084, Eq. 8, without the pairs of an image with itself.
    """
    return _of_gradients(lfc.lfc_offdiagonal, panel)


def lgc_centered(panel: Panel) -> Result:
    """Correlate the kernel of centred gradients with the double-centred same-label matrix, as ``lfc_centered`` does.

    Source: arXiv:1905.00414, Eq. 3 and 4, of the kernel of arXiv:2102.00084.
    """
    return _of_gradients(lfc.lfc_centered, panel)


def gradient_alignment_speed(panel: Panel) -> Result:
    """Return how fast training starts, as ``alignment_speed`` does.

    Source: arXiv:2102.00084, Eq. 3.
    """
    return _of_gradients(alignment.alignment_speed, panel)


def gradient_ridge_generalization(panel: Panel) -> Result:
    """Return how simple the labels look to the kernel, as ``ridge_generalization`` does.

    Source: arXiv:2102.00084, Eq. 4.
    """
    return _of_gradients(alignment.ridge_generalization, panel)


def gradient_gcv(panel: Panel) -> Result:
    """Return the share of the labels' variance that kernel ridge regression predicts, as ``ridge_gcv`` does.

    Source: Wei et al. 2022, arXiv:2203.06176, Section 4.
    """
    return _of_gradients(ridge.ridge_gcv, panel)


def gradient_loo(panel: Panel) -> Result:
    """Return the leave-one-out accuracy of kernel ridge regression, as ``ridge_loo`` does.

    The standard error is over images; that of the choice of probes is not in it.

    Raises:
        EvaluationFailed: ``no_held_out_images``: no class has two images.
    """
    return ridge.ridge_loo(gradient_panel(panel))


def _of_gradients(score: Callable[[Panel], Result], panel: Panel) -> Result:
    """Return a score of the mean kernel; its standard error is over the draw of the images and that of the probes."""
    result = score(gradient_panel(panel))
    stderr = result.stderr
    if stderr is None and result.influence_N is not None:
        stderr = stratified_stderr(result.influence_N, panel.labels_N, panel.units_N)
    if stderr is None:
        return result
    return dataclasses.replace(result, stderr=math.hypot(stderr, _probe_stderr(score, panel)))


def _probe_stderr(score: Callable[[Panel], Result], panel: Panel) -> float:
    """Return the jackknife standard error of the choice of probes; zero for one probe, of which nothing is known."""
    values_P = np.array([score(other).value for other in panels_without_a_probe(panel)])
    if len(values_P) < 2:
        return 0.0
    return math.sqrt((len(values_P) - 1) / len(values_P) * float(np.square(values_P - values_P.mean()).sum()))
