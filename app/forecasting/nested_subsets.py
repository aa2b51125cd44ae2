"""From a few images to many by simulating fewer: Richardson extrapolation in 1 / n.

Legend: N0 images of the kernel, L levels.

Fewer images are easier to fit, so a simulation of N0 of n images gets to every loss too soon. With T(n) = T + b / n
to first order, the time at N0 and that at N0 / 2 (the mean of two disjoint halves, whose kernels are parts of the one
there is) give T(n) = T(N0) + (T(N0 / 2) - T(N0)) (N0 / n - 1), level by level.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from app.forecasting.curve import Curve, smoothed
from app.forecasting.level_times import level_times_L
from app.forecasting.linearisation import Linearisation

_Array = NDArray[np.float64]
LARGEST_STRETCH = 3.0


def halves(labels_N: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the places of two disjoint halves of the images, of equal size up to one, every class split evenly."""
    by_class_N = np.argsort(labels_N, kind="stable")
    return np.sort(by_class_N[::2]), np.sort(by_class_N[1::2])


def richardson(time_whole_L: _Array, time_half_L: _Array, *, simulated: int, num_images: int) -> _Array:
    """Return the times with ``num_images`` images from those with ``simulated`` images and with half as many."""
    return time_whole_L + (time_half_L - time_whole_L) * (simulated / num_images - 1)


def stretch_L(
    linearisation: Linearisation, whole: Curve, simulate: Callable[[Linearisation], Curve], *, num_images: int
) -> _Array:
    """Return how many times longer each level takes with ``num_images`` images than in the simulation.

    Levels that one of the simulations does not reach, or reaches before its second step, take their neighbour's. More
    images do not make training shorter, nor over three times longer: outside that the extrapolation is noise.

    Args:
        linearisation: the network on N0 images.
        whole: its simulated training.
        simulate: simulates the same training on part of the images.
        num_images: n.
    """
    whole_L = _median_times_L(whole)
    half_L = np.mean(
        [_median_times_L(simulate(linearisation.subset(half))) for half in halves(linearisation.labels_N)], 0
    )
    known_L = np.isfinite(whole_L) & np.isfinite(half_L) & (whole_L >= 2)
    if not known_L.any():
        return np.ones_like(whole_L)
    times_L = richardson(whole_L[known_L], half_L[known_L], simulated=linearisation.num_images, num_images=num_images)
    ratio_L = np.clip(times_L / whole_L[known_L], 1.0, LARGEST_STRETCH)
    places_L = np.arange(len(whole_L))
    return np.asarray(np.interp(places_L, places_L[known_L], ratio_L))


def _median_times_L(curve: Curve) -> _Array:
    return level_times_L(np.median(smoothed(curve.loss_ST), axis=0))
