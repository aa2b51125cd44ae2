"""How sure a score is: standard errors and resampled values from influences, without computing the score again.

Legend: N images, C classes, G units (near-duplicate images together), R resamples, I units of one class.

With weights w_i in place of ones, a score is to first order value + sum (w_i - 1) influence_i. An image's influence
comes from a closed form or from exact leave-one-out values; resampling then costs one matrix product.
"""

import math

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]


def stratified_stderr(influence_N: _Array, labels_N: NDArray[np.intp]) -> float:
    """Return the standard error over a draw of the images within their classes.

    It is the standard deviation that resamples of ``resample_weights`` have, in closed form.
    """
    variance = 0.0
    for label in np.unique(labels_N):
        influence_I = influence_N[labels_N == label]
        if len(influence_I) > 1:
            variance += len(influence_I) * float(influence_I.var(ddof=1))
    return math.sqrt(variance)


def resample_weights(
    labels_N: NDArray[np.intp], replicates: int, *, units_N: NDArray[np.intp] | None = None, seed: int = 0
) -> _Array:
    """Return how often each image counts in each resample (R x N); one column sum is N on average.

    Units are drawn within the class of their first image. Of a class's I units I - 1 are drawn and counted I / (I - 1)
    times: with as many draws as units the variance would come out too small by that factor (Rao and Wu 1988). A unit
    that is alone in its class always counts once.

    Args:
        labels_N: the class of each image.
        replicates: number of resamples.
        units_N: images with the same number are drawn together; by default each image is a unit.
        seed: of the resamples; the same seed gives the same resamples to every model.
    """
    random = np.random.default_rng(seed)
    units_N = np.arange(len(labels_N)) if units_N is None else np.unique(units_N, return_inverse=True)[1].reshape(-1)
    _, first_G = np.unique(units_N, return_index=True)
    class_G = labels_N[first_G]
    weights_RG = np.ones((replicates, len(first_G)))
    for label in np.unique(class_G):
        members_I = np.flatnonzero(class_G == label)
        units = len(members_I)
        if units == 1:
            continue
        drawn = random.integers(0, units, size=(replicates, units - 1)) + units * np.arange(replicates)[:, None]
        counts_RI = np.bincount(drawn.ravel(), minlength=replicates * units).reshape(replicates, units)
        weights_RG[:, members_I] = counts_RI * (units / (units - 1))
    return np.asarray(weights_RG[:, units_N])


def resampled_values(value: float, influence_N: _Array, weights_RN: _Array) -> _Array:
    """Return the score in every resample, to first order."""
    return np.asarray(value + (weights_RN - 1.0) @ influence_N)
