"""Training simulated with an explicit head and a linearised backbone: the default method.

Legend: S seeds, N images, B of a batch, C classes, Q directions, R coordinates of the head with one for the bias.

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

from app.forecasting.batch_order import Batch, batches_SB
from app.forecasting.curve import Curve, recorded
from app.forecasting.head_coordinates import HeadCoordinates
from app.forecasting.linearisation import Linearisation
from app.forecasting.losses import accuracies, one_hot_CN, residuals_and_losses
from app.forecasting.sgd import Sgd
from app.forecasting.training import Training

_Array = NDArray[np.float64]
RECORDED = 200
"""A training of fewer than twice as many steps is recorded at every step; a longer one at as many, or a few more."""

_EQUAL = 1e-9  # of the largest feature: images that differ by less are the same to the network


def simulate(
    linearisation: Linearisation,
    training: Training,
    *,
    seeds: Sequence[int] = (0,),
    batches: Iterable[Batch] | None = None,
) -> Curve:
    """Return loss and accuracy of all the kernel's images after every step.

    A step costs (N Q)^2 S multiplications with a class kernel, N^2 Q S with a trace kernel, B R C S for the head. The
    loss of all images costs N R C S more: of a long training it is computed at evenly spaced steps alone, and lies on
    straight lines in between.

    Args:
        linearisation: the network at its start.
        training: hyperparameters.
        seeds: one order of the images each.
        batches: the places of the images of each step and seed, in place of the seeds' own.
    """
    if batches is None:
        batches = batches_SB(linearisation.num_images, training.batch_size, training.steps, seeds)
    trajectory = Trajectory(linearisation, training, len(seeds))
    every = max(1, training.steps // RECORDED)
    looked_at, losses, shares = [], [], []
    number = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for batch_SB in batches:
            if number % every == 0:
                loss_S, share_S = trajectory.look()
                looked_at.append(number)
                losses.append(loss_S)
                shares.append(share_S)
            trajectory.step(number, batch_SB)
            number += 1
        loss_S, share_S = trajectory.look()
    return recorded([*losses, loss_S], [*shares, share_S], steps=[*looked_at, number], leap=trajectory.leap)


class Trajectory:
    """Head and moved features of every seed, changed step by step."""

    def __init__(self, linearisation: Linearisation, training: Training, seeds: int) -> None:
        """Stand at the start of the training."""
        coordinates = HeadCoordinates.of(linearisation)
        self._linearisation, self._training = linearisation, training
        self.coordinates = coordinates
        self._features_NR, self._basis_QR = coordinates.features_NR, coordinates.basis_QR
        self._target_CN = one_hot_CN(linearisation.labels_N, linearisation.num_classes)
        self.head_SCR = np.repeat(coordinates.head_CR[None], seeds, axis=0)
        self._moved_SQN = np.zeros((seeds, linearisation.num_directions, linearisation.num_images))
        self._sgd = Sgd(training, [self.head_SCR, self._moved_SQN])
        centred_ND = linearisation.features_ND - linearisation.features_ND.mean(axis=0)
        self._spread = float(np.sqrt(np.square(centred_ND).sum(axis=1).mean()))
        if self._spread <= _EQUAL * float(np.abs(linearisation.features_ND).max(initial=0.0)):
            self._spread = 0.0
        self.leap = 0.0
        """The farthest that a step moved the features, over their spread."""

    def look(self) -> tuple[_Array, _Array]:
        """Return mean loss and accuracy of all images (S)."""
        output_SCN = _rows(self.head_SCR, self._features_NR.T)
        if self._moved_SQN.size:
            output_SCN += self._head_along() @ self._moved_SQN
        _, loss_SN = residuals_and_losses(self._training.loss, output_SCN, self._target_CN)
        return loss_SN.mean(axis=1), accuracies(output_SCN, self._linearisation.labels_N)

    def step(self, number: int, batch_SB: Batch) -> None:
        """Do one step on a batch of each seed."""
        decay, moving = self._training.weight_decay, self._moved_SQN.size > 0
        features_SBR = self._features_NR[batch_SB]
        output_SCB = self.head_SCR @ features_SBR.transpose(0, 2, 1)
        along_SCQ = self._head_along()
        moved_SQB = np.take_along_axis(self._moved_SQN, batch_SB[:, None], axis=2)
        if moving:
            output_SCB += along_SCQ @ moved_SQB
        target_SCB = self._target_CN[:, batch_SB].transpose(1, 0, 2)
        residual_SCB, _ = residuals_and_losses(self._training.loss, output_SCB, target_SCB)
        residual_SCB /= batch_SB.shape[1]
        head_gradient = residual_SCB @ features_SBR
        moved_gradient = self._moved_SQN
        if moving:
            head_gradient += _rows(residual_SCB @ moved_SQB.transpose(0, 2, 1), self._basis_QR)
            force_SQB = along_SCQ.transpose(0, 2, 1) @ residual_SCB
            moved_gradient = self._linearisation.moved_by_batch_SQN(force_SQB, batch_SB)
        if decay:
            head_gradient += decay * self.head_SCR
            moved_gradient = moved_gradient + decay * self._moved_SQN
            if self._linearisation.decay_QN is not None:
                moved_gradient += decay * self._linearisation.decay_QN
        before_SQN = self._moved_SQN.copy()
        self._sgd.step(number, [head_gradient, moved_gradient])
        if moving and self._spread:
            before_SQN -= self._moved_SQN
            farthest = np.sqrt(np.square(before_SQN, out=before_SQN).sum(axis=1).mean(axis=1)).max()
            self.leap = float(np.fmax(self.leap, farthest / self._spread))

    def _head_along(self) -> _Array:
        """Return the head in the directions (S, C, Q)."""
        return _rows(self.head_SCR, self._basis_QR.T)


def _rows(stack_SCK: _Array, matrix_KL: _Array) -> _Array:
    """Return the product of all seeds' rows with one matrix, as a single multiplication."""
    seeds, classes, inner = stack_SCK.shape
    return np.asarray((stack_SCK.reshape(seeds * classes, inner) @ matrix_KL).reshape(seeds, classes, -1))
