"""Training simulated with an explicit head and a linearised backbone: the default method.

Legend: S seeds, N images, C classes, Q directions, R coordinates of the head with one for the bias.

The outputs are f = W (phi0 + Q psi) + b. Head and bias are trained as they are; psi_i = Q' J_i (theta - theta0), how
far the features of image i have moved in the Q directions, answers to a gradient through the kernel. With r the
gradient of the batch's loss with respect to the outputs, one step of gradient descent on theta is psi -= rate K (r W
Q), and weight decay adds Q' J theta = Q' J theta0 + psi to that gradient. Momentum and Nesterov are linear, so they
act on psi just as on theta: the simulation is mini-batch SGD on the bilinear model itself and no approximation to it.

The frozen kernel of arXiv:2008.12478 leaves out that the kernel grows with the head. A head that starts at zero has
no backbone kernel at all there, so that its times are those of a linear probe, several times too long; with the head
explicit the backbone's part appears as soon as the head does. Directions of the features that Q leaves out stay where
they are.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from app.forecasting.batch_order import Batch, batches_SB, weights_SN
from app.forecasting.curve import Curve, recorded
from app.forecasting.head_coordinates import HeadCoordinates
from app.forecasting.linearisation import Linearisation
from app.forecasting.losses import accuracies, one_hot_CN, residuals_and_losses
from app.forecasting.sgd import Sgd
from app.forecasting.training import Training

_Array = NDArray[np.float64]


def simulate(
    linearisation: Linearisation,
    training: Training,
    *,
    seeds: Sequence[int] = (0,),
    batches: Iterable[Batch] | None = None,
) -> Curve:
    """Return loss and accuracy of all the kernel's images after every step.

    A step costs (N Q)^2 S multiplications with a class kernel, N^2 Q S with a trace kernel, N R C S for the head; the
    loss of all images falls off in passing, so every step is recorded.

    Args:
        linearisation: the network at its start.
        training: hyperparameters.
        seeds: one order of the images each.
        batches: the places of the images of each step and seed, in place of the seeds' own.
    """
    if batches is None:
        batches = batches_SB(linearisation.num_images, training.batch_size, training.steps, seeds)
    trajectory = Trajectory(linearisation, training, len(seeds))
    losses, shares = [], []
    with np.errstate(over="ignore", invalid="ignore"):
        for number, batch_SB in enumerate(batches):
            residual_SCN, loss_S, share_S = trajectory.look()
            losses.append(loss_S)
            shares.append(share_S)
            trajectory.step(number, residual_SCN * weights_SN(batch_SB, linearisation.num_images)[:, None])
        _, loss_S, share_S = trajectory.look()
    return recorded([*losses, loss_S], [*shares, share_S])


class Trajectory:
    """Head and moved features of every seed, changed step by step."""

    def __init__(self, linearisation: Linearisation, training: Training, seeds: int) -> None:
        """Stand at the start of the training."""
        coordinates = HeadCoordinates.of(linearisation)
        self._linearisation, self._training = linearisation, training
        self.coordinates = coordinates
        self._features_NR, self._basis_QR = coordinates.features_NR, coordinates.basis_QR
        self.target_CN = one_hot_CN(linearisation.labels_N, linearisation.num_classes)
        self.head_SCR = np.repeat(coordinates.head_CR[None], seeds, axis=0)
        self._moved_SQN = np.zeros((seeds, linearisation.num_directions, linearisation.num_images))
        self._sgd = Sgd(training, [self.head_SCR, self._moved_SQN])

    def look(self) -> tuple[_Array, _Array, _Array]:
        """Return the residuals (S, C, N), and mean loss and accuracy of all images (S)."""
        output_SCN = _rows(self.head_SCR, self._features_NR.T)
        if self._moved_SQN.size:
            output_SCN += self._head_along() @ self._moved_SQN
        residual_SCN, loss_SN = residuals_and_losses(self._training.loss, output_SCN, self.target_CN)
        return residual_SCN, loss_SN.mean(axis=1), accuracies(output_SCN, self._linearisation.labels_N)

    def step(self, number: int, residual_SCN: _Array) -> None:
        """Do one step with the gradient of the batch's mean loss with respect to all outputs."""
        decay = self._training.weight_decay
        head_gradient = _rows(residual_SCN, self._features_NR)
        moved_gradient = self._moved_SQN
        if self._moved_SQN.size:
            head_gradient += _rows(residual_SCN @ self._moved_SQN.transpose(0, 2, 1), self._basis_QR)
            force_SQN = self._head_along().transpose(0, 2, 1) @ residual_SCN
            moved_gradient = self._linearisation.moved_QN(force_SQN)
        if decay:
            head_gradient += decay * self.head_SCR
            moved_gradient = moved_gradient + decay * self._moved_SQN
            if self._linearisation.decay_QN is not None:
                moved_gradient += decay * self._linearisation.decay_QN
        self._sgd.step(number, [head_gradient, moved_gradient])

    def kernel_times(self, values_CN: _Array) -> _Array:
        """Return the tangent kernel as it stands, of head and backbone of the first seed, times a vector of outputs."""
        moved_QN = self._moved_SQN[0]
        result_CN = (values_CN @ self._features_NR) @ self._features_NR.T
        if moved_QN.size:
            along_CQ = self._head_along()[0]
            across_QN = self._basis_QR @ self._features_NR.T
            shift_CQ = values_CN @ moved_QN.T
            result_CN += shift_CQ @ across_QN + (values_CN @ across_QN.T + shift_CQ) @ moved_QN
            result_CN += along_CQ @ self._linearisation.moved_QN(along_CQ.T @ values_CN)
        return np.asarray(result_CN)

    def _head_along(self) -> _Array:
        """Return the head in the directions (S, C, Q)."""
        return _rows(self.head_SCR, self._basis_QR.T)


def _rows(stack_SCK: _Array, matrix_KL: _Array) -> _Array:
    """Return the product of all seeds' rows with one matrix, as a single multiplication."""
    seeds, classes, inner = stack_SCK.shape
    return np.asarray((stack_SCK.reshape(seeds * classes, inner) @ matrix_KL).reshape(seeds, classes, -1))
