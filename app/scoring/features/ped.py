"""Potential energy descent: classes repel each other before they are told apart.

Legend: N images, B of them in a block, D feature dimensions, C classes, K coordinates.

Every class mean stays a weighted sum of the first ones, so a C x C matrix of weights and the means' C x C inner
products are all that a step needs.
"""

import numpy as np
from numpy.typing import NDArray

from app.scoring.contract import Result
from app.scoring.features.sfda import Points, published_intensity, self_challenged
from app.scoring.panel import Panel

_Array = NDArray[np.float64]

RADIUS = 0.6  # share of a class's root mean square radius that counts as its body
_TIME_STEP = 0.1
_STEPS = 6
_EXIT_RATIO = 0.5  # descent ends before the step that moves classes less than this share of the first one
_TOUCHING = 1e-12  # squared distance, as a share of the largest squared length, at which two means are one


def ped(panel: Panel) -> Result:
    """Return SFDA's value of features whose overlapping classes have moved apart.

    A class is a ball of radius 0.6 times the root mean square distance of its images from their mean. Two balls that
    overlap by o push each other along the line between their means by o step^2 / 2 with step 0.1; whole classes move.
    This is repeated up to six times, as long as a step moves the classes more than half as far as the first did.

    Distances are those of features divided by their standard deviations. The authors take these from ImageNet, which a
    data set of one's own does not come with; here they are its own, and a dimension without variation is left out.
    Movement is summed as lengths, not as absolute coordinates, and classes of the same mean do not push each other:
    they have no direction.

    Source: Li et al. 2023, arXiv:2308.15074, with SFDA as the score of the moved features.
    """
    x_NK, labels_N = panel.coordinates_NK, panel.labels_N
    if panel.constant:
        value = self_challenged(panel, Points(x_NK), 1.0, softened=True)
        return Result(value=value, warnings=("constant_features",))
    n_C = panel.counts_C.astype(np.float64)
    variance_D = np.einsum("nd,nd->d", panel.centred_ND, panel.centred_ND) / panel.num_images
    inverse_D = np.divide(1.0, np.sqrt(variance_D), out=np.zeros_like(variance_D), where=variance_D > 0)
    means_CD = panel.class_sums_CD * inverse_D / n_C[:, None]
    squares_N = np.empty(panel.num_images)
    for part in panel.parts():
        rows_BD = panel.centred_ND[part] * inverse_D
        squares_N[part] = np.einsum("bd,bd->b", rows_BD, rows_BD)
    squares_C = np.bincount(labels_N, squares_N, minlength=panel.num_classes) / n_C
    radius_C = RADIUS * np.sqrt(np.maximum(squares_C - np.einsum("cd,cd->c", means_CD, means_CD), 0.0))
    weights_CC = _descent(means_CD @ means_CD.T, radius_C)
    means_CK = panel.coordinate_sums_CK / n_C[:, None]
    moves_CK = weights_CC @ means_CK - means_CK
    moved_NK = panel.workspace.matrix(*x_NK.shape)
    for part in panel.parts(x_NK.shape[1]):
        np.add(x_NK[part], moves_CK[labels_N[part]], out=moved_NK[part])
    moved_NK -= moved_NK.mean(axis=0)
    # Classes move as a whole: the covariance within them, and with it the intensity, stays as it was.
    value = self_challenged(panel, Points(moved_NK), published_intensity(panel), softened=True)
    few = panel.num_images - panel.num_classes < panel.num_dimensions
    return Result(value=value, warnings=("fewer_images_than_dimensions",) * few)


def _descent(gram_CC: _Array, radius_C: _Array) -> _Array:
    """Return the weights of the first means that make up each mean after the descent."""
    weights_CC, first = np.eye(len(gram_CC)), 0.0
    for step in range(_STEPS):
        push_CC = _push(weights_CC @ gram_CC @ weights_CC.T, radius_C) @ weights_CC
        moved = float(np.sqrt(np.maximum(np.einsum("cd,cd->c", push_CC @ gram_CC, push_CC), 0.0)).sum())
        first = first if step else moved
        if moved <= _EXIT_RATIO * first:
            break
        weights_CC = weights_CC + push_CC
    return weights_CC


def _push(gram_CC: _Array, radius_C: _Array) -> _Array:
    """Return one step's movement of every mean as weights of the present means."""
    lengths_C = np.diag(gram_CC)
    distance_CC = np.sqrt(np.maximum(lengths_C[:, None] + lengths_C - 2 * gram_CC, 0.0))
    overlap_CC = np.maximum(radius_C[:, None] + radius_C - distance_CC, 0.0)
    apart_CC = distance_CC**2 > _TOUCHING * float(lengths_C.max())
    np.fill_diagonal(apart_CC, False)
    push_CC = np.divide(0.5 * _TIME_STEP**2 * overlap_CC, distance_CC, out=np.zeros_like(distance_CC), where=apart_CC)
    return np.asarray(np.diag(push_CC.sum(axis=1)) - push_CC)
