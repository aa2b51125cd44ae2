"""Which classes a model's probe gets right, and which it takes for which.

Legend: N images, C classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Held-out images of one class that were taken for another."""

    label: int
    predicted: int
    images: int


@dataclass(frozen=True, kw_only=True)
class Confusions:
    """Held-out answers by class.

    Attributes:
        held_out: held-out images of every class.
        right: how many of them were predicted right.
        pairs: which classes were taken for which, the most frequent first.
    """

    held_out: tuple[int, ...]
    right: tuple[int, ...]
    pairs: tuple[Confusion, ...]


def confusions(
    labels_N: NDArray[np.intp], predicted_N: NDArray[np.intp], held_out_N: NDArray[np.bool_], classes: int
) -> Confusions:
    """Count the held-out predictions of every class; a prediction of -1 is no class (a tie) and counts as wrong."""
    labels_H, predicted_H = labels_N[held_out_N], predicted_N[held_out_N]
    wrong_H = (predicted_H != labels_H) & (predicted_H >= 0)
    pair_P, images_P = np.unique(labels_H[wrong_H] * classes + predicted_H[wrong_H], return_counts=True)
    order_P = np.argsort(-images_P, kind="stable")
    return Confusions(
        held_out=tuple(np.bincount(labels_H, minlength=classes).tolist()),
        right=tuple(np.bincount(labels_H[predicted_H == labels_H], minlength=classes).tolist()),
        pairs=tuple(
            Confusion(label=int(pair // classes), predicted=int(pair % classes), images=int(images))
            for pair, images in zip(pair_P[order_P], images_P[order_P], strict=True)
        ),
    )
