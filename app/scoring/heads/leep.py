"""LEEP: how well the labels follow from the classes that the model was pretrained with.

Legend: N images, C classes, Z source classes, I images of one class.

With J_yz = sum of P_iz over the images of class y, q_z = sum_y J_yz and p(y|z) = J_yz / q_z, the score is the mean of
log s_i, s_i = sum_z p(y_i|z) P_iz. Images are worked on class by class, so nothing larger than N x Z is formed.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.scoring.contract import Result
from app.scoring.panel import Panel

_Matrix = NDArray[np.float64]
_KEPT_ENTRIES = 1 << 20  # probabilities kept in float64: more than 8 MB are converted again each time


def leep(panel: Panel) -> Result:
    """Return the mean log expected empirical prediction, in nats per image.

    Source: Nguyen et al. 2020, arXiv:2002.12462, Eq. 2. A source class without any probability has no say.
    """
    factor_N = 1 / panel.probability_sums_N
    value, influence_N = _log_expected_prediction(panel.given_probabilities, factor_N, panel.class_members)
    return Result(value=value, influence_N=influence_N)


def log_expected_prediction(
    probabilities_NZ: _Matrix, labels_N: NDArray[np.intp], num_classes: int
) -> tuple[float, _Matrix]:
    """Return (LEEP of probabilities over any Z things, each image's influence on it)."""
    order_N = np.argsort(labels_N, kind="stable")
    members = np.split(order_N, np.cumsum(np.bincount(labels_N, minlength=num_classes))[:-1])
    return _log_expected_prediction(probabilities_NZ, np.ones(len(labels_N)), members)


def _log_expected_prediction(
    raw_NZ: NDArray[Any], factor_N: _Matrix, members: list[NDArray[np.intp]]
) -> tuple[float, _Matrix]:
    """Return the same for probabilities that are rows times a factor, in whatever precision the rows are."""
    kept = [raw_NZ[images_I].astype(np.float64) for images_I in members] if raw_NZ.size <= _KEPT_ENTRIES else None

    def rows(label: int) -> _Matrix:
        return kept[label] if kept is not None else raw_NZ[members[label]].astype(np.float64, copy=False)

    images = len(raw_NZ)
    joint_CZ = np.array([factor_N[images_I] @ rows(label) for label, images_I in enumerate(members)])
    mass_Z = joint_CZ.sum(axis=0)
    used_Z = np.where(mass_Z > 0, mass_Z, 1.0)
    conditional_CZ = joint_CZ / used_Z

    expected_N = np.empty(images)
    pull_CZ = np.empty_like(joint_CZ)  # how the sum of the logs answers to p(y|z)
    for label, images_I in enumerate(members):
        own_IZ, factor_I = rows(label), factor_N[images_I]
        expected_I = factor_I * (own_IZ @ conditional_CZ[label])
        pull_CZ[label] = (factor_I / expected_I) @ own_IZ
        expected_N[images_I] = expected_I
    log_N = np.log(expected_N)
    value = float(log_N.mean())

    # One more of image k adds log s_k, and P_kz to J_yz and q_z, so that p(y|z) moves by ([y_k=y] - p(y|z)) P_kz / q_z.
    gain_CZ = (pull_CZ - (pull_CZ * conditional_CZ).sum(axis=0)) / used_Z
    moved_N = np.empty(images)
    for label, images_I in enumerate(members):
        moved_N[images_I] = factor_N[images_I] * (rows(label) @ gain_CZ[label])
    return value, (log_N - value + moved_N) / images
