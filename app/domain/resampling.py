"""How sure a score is: standard errors and resampled values from influences, without computing the score again.

Legend: N images, C classes, G units (near-duplicate images together), R resamples, I units of one class.

With weights w_i in place of ones, a score is to first order value + sum (w_i - 1) influence_i. An image's influence
comes from a closed form or from exact leave-one-out values; resampling then costs one matrix product.
"""

import math

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]


def stratified_stderr(
    influence_N: _Array, labels_N: NDArray[np.intp], units_N: NDArray[np.intp] | None = None
) -> float | None:
    """Return the standard error over a draw of the units within their classes; None if each class is a single unit.

    It is the standard deviation that resamples of ``resample_weights`` have, in closed form.
    """
    unit_N, class_G = units(labels_N, units_N)
    influence_G = np.bincount(unit_N, influence_N, minlength=len(class_G))
    number_C = np.bincount(class_G)
    several_C = np.flatnonzero(number_C > 1)
    if not len(several_C):
        return None
    mean_C = np.bincount(class_G, influence_G) / np.maximum(number_C, 1)
    squares_C = np.bincount(class_G, (influence_G - mean_C[class_G]) ** 2)
    return math.sqrt(float((squares_C * number_C / np.maximum(number_C - 1, 1))[several_C].sum()))


def effective_number(units_N: NDArray[np.intp]) -> float:
    """Return as how many independent images they count: (sum m)^2 / sum m^2 over the sizes m of the units.

    Source: Kish 1965, Survey Sampling: the design effect of weights that are all whole units.
    """
    _, size_G = np.unique(units_N, return_counts=True)
    return float(size_G.sum()) ** 2 / float(size_G @ size_G)


def resample_weights(
    labels_N: NDArray[np.intp],
    replicates: int,
    *,
    units_N: NDArray[np.intp] | None = None,
    random: np.random.Generator | int = 0,
) -> _Array:
    """Return how often each image counts in each resample (R x N); one column sum is N on average.

    Units are drawn within the class of their first image. Of a class's I units I - 1 are drawn and counted I / (I - 1)
    times: with as many draws as units the variance would come out too small by that factor (Rao and Wu 1988). A unit
    that is alone in its class always counts once.

    Args:
        labels_N: the class of each image.
        replicates: number of resamples.
        units_N: images with the same number are drawn together; by default each image is a unit.
        random: a generator, or a seed: the same one gives the same resamples to every model.
    """
    random = np.random.default_rng(random)
    unit_N, class_G = units(labels_N, units_N)
    weights_RG = np.ones((replicates, len(class_G)))
    for label in np.unique(class_G):
        members_I = np.flatnonzero(class_G == label)
        number = len(members_I)
        if number == 1:
            continue
        drawn = random.integers(0, number, size=(replicates, number - 1)) + number * np.arange(replicates)[:, None]
        counts_RI = np.bincount(drawn.ravel(), minlength=replicates * number).reshape(replicates, number)
        weights_RG[:, members_I] = counts_RI * (number / (number - 1))
    return weights_RG if units_N is None else np.asarray(weights_RG[:, unit_N])


def units(labels_N: NDArray[np.intp], units_N: NDArray[np.intp] | None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return (each image's unit as 0..G-1, each unit's class: that of its first image).

    Args:
        labels_N: the class of each image.
        units_N: images with the same number are one unit; None when each stands alone.
    """
    if units_N is None:
        return np.arange(len(labels_N)), labels_N
    _, first_G, unit_N = np.unique(units_N, return_index=True, return_inverse=True)
    return unit_N.reshape(-1), labels_N[first_G]


def resampled_values(value: float, influence_N: _Array, weights_RN: _Array) -> _Array:
    """Return the score in every resample, to first order."""
    return np.asarray(value - influence_N.sum() + weights_RN @ influence_N)
