"""The linear head in as few coordinates as its training can reach.

Legend: N images, D feature dimensions, Q directions, C classes, R reachable coordinates and one for the bias.

A step adds multiples of the images' features to the head's rows, moved features included. Its rows therefore stay in
the span of the features, the directions and where they started; what of the start lies outside that span meets no
image. So N + Q coordinates do for D, exactly.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.forecasting.linearisation import Linearisation

_Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HeadCoordinates:
    """Features, directions and head in the same orthonormal coordinates; the last one is 1 for every image: the bias.

    Attributes:
        features_NR: of the simulated images.
        basis_QR: directions as rows; 0 at the bias.
        head_CR: weight and bias at the start.
        span_DR: the coordinates as directions of the features, without the bias.
    """

    features_NR: _Array
    basis_QR: _Array
    head_CR: _Array
    span_DR: _Array

    @classmethod
    def of(cls, linearisation: Linearisation) -> "HeadCoordinates":
        """Return the coordinates; D of them, where N + Q are no fewer."""
        features_ND, basis_DQ = linearisation.features_ND, linearisation.basis_DQ
        head_CD = linearisation.head_CD
        span_DR = np.eye(features_ND.shape[1])
        spanning = np.vstack([features_ND, basis_DQ.T])
        if spanning.shape[0] < spanning.shape[1]:
            span_DR = np.linalg.qr(spanning.T)[0]
            features_ND, basis_DQ, head_CD = features_ND @ span_DR, span_DR.T @ basis_DQ, head_CD @ span_DR
        return cls(
            features_NR=np.hstack([features_ND, np.ones((len(features_ND), 1))]),
            basis_QR=np.hstack([basis_DQ.T, np.zeros((basis_DQ.shape[1], 1))]),
            head_CR=np.hstack([head_CD, linearisation.bias_C[:, None]]),
            span_DR=span_DR,
        )

    def weight_CD(self, head_CR: _Array) -> _Array:
        """Return the weight of a head in these coordinates."""
        return np.asarray(head_CR[:, :-1] @ self.span_DR.T)
