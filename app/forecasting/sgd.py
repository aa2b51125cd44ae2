"""``torch.optim.SGD`` on NumPy arrays."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.forecasting.training import Training

_Array = NDArray[np.float64]


class Sgd:
    """Momentum buffers of some arrays, which each step changes in place.

    The rule is linear, so it may run on any linear image of the weights (outputs, features) just as on the weights:
    what is given as gradient is then the image of the gradient, with the image of the decayed weights added by the
    caller.
    """

    def __init__(self, training: Training, arrays: Sequence[_Array]) -> None:
        """Start without velocity."""
        self._training = training
        self._arrays = arrays
        self._velocities = [np.zeros_like(array) for array in arrays]

    def step(self, number: int, gradients: Sequence[_Array]) -> None:
        """Do step ``number``, counted from 0: v <- m v + g; w <- w - rate v, or rate (g + m v) with Nesterov."""
        rate, momentum = self._training.rate_at(number), self._training.momentum
        for array, velocity, gradient in zip(self._arrays, self._velocities, gradients, strict=True):
            velocity *= momentum
            velocity += gradient
            if self._training.nesterov:
                array -= rate * (gradient + momentum * velocity)
            else:
                array -= rate * velocity
