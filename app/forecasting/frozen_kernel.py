"""The neural tangent kernel at the start, and training under it: the method of arXiv:2008.12478.

Legend: S seeds, N images, C classes, Q directions, P = C N outputs (class first).

The kernel has a part of the head, (phi phi' + 1) (x) I_C, and one of the backbone, W0 Q K Q' W0'. A head that starts at
zero leaves only the first, and its training is a linear probe's; give the linearisation the head that training starts
from, or use the bilinear method. What W0 has outside the Q directions is not seen by the kernel.

The paper simulates mini-batch SGD by a stochastic differential equation with learning rate / (1 - momentum). That is
not needed: SGD on the linearised network is linear in the outputs, so it runs there exactly, with momentum, Nesterov,
weight decay and a schedule. With u = f - f0, r the gradient of the batch's loss and q = J w0: v <- m v + K r + decay
(q + u), u <- u - rate v.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import scipy.sparse.linalg
from numpy.typing import NDArray

from app.domain.errors import EvaluationFailed
from app.forecasting.batch_order import Batch, batches_SB, weights_SN
from app.forecasting.curve import Curve, recorded
from app.forecasting.linearisation import Linearisation
from app.forecasting.losses import accuracies, one_hot_CN, residuals_and_losses
from app.forecasting.sgd import Sgd
from app.forecasting.training import Training

_Array = NDArray[np.float64]

LARGEST_SPECTRUM = 6000
"""Outputs (images x classes) up to which eigenvectors of a kernel with a backbone's part are taken."""


class FrozenKernel:
    """The tangent kernel of a network at its start, as an operator on outputs."""

    def __init__(self, linearisation: Linearisation) -> None:
        """Take the parts of the kernel from a linearisation."""
        features_ND = linearisation.features_ND
        self._linearisation = linearisation
        self.head_NN = features_ND @ features_ND.T + 1
        self.head_along_CQ = linearisation.head_CD @ linearisation.basis_DQ
        self.outputs_CN = linearisation.head_CD @ features_ND.T + linearisation.bias_C[:, None]
        self.target_CN = one_hot_CN(linearisation.labels_N, linearisation.num_classes)

    @property
    def labels_N(self) -> NDArray[np.intp]:
        """The classes of the images."""
        return self._linearisation.labels_N

    @property
    def head_only(self) -> bool:
        """Whether the backbone has no part in the kernel."""
        return not self.head_along_CQ.any()

    @property
    def decay_CN(self) -> _Array:
        """J w0, where weight decay pulls: the outputs at the start and the backbone's share of it."""
        decay_QN = self._linearisation.decay_QN
        return self.outputs_CN if decay_QN is None else self.outputs_CN + self.head_along_CQ @ decay_QN

    def times(self, values_CN: _Array) -> _Array:
        """Return the kernel times a vector of outputs (..., C, N)."""
        result_CN = values_CN @ self.head_NN
        if not self.head_only:
            result_CN += self.head_along_CQ @ self._linearisation.moved_QN(self.head_along_CQ.T @ values_CN)
        return np.asarray(result_CN)

    def largest_eigenvalue(self) -> float:
        """Return the largest eigenvalue; divided by N, the curvature of half the mean squared distance."""
        if self.head_only:
            return float(np.linalg.eigvalsh(self.head_NN)[-1])
        shape = self.target_CN.shape
        operator = scipy.sparse.linalg.LinearOperator(
            (self.target_CN.size, self.target_CN.size), lambda v: self.times(v.reshape(shape)).ravel(), dtype=np.float64
        )
        start_P = np.random.default_rng(0).standard_normal(self.target_CN.size)
        return float(scipy.sparse.linalg.eigsh(operator, k=1, v0=start_P, return_eigenvectors=False)[0])

    def modes(self) -> "Modes":
        """Return all eigenvalues with eigenvectors.

        Raises:
            EvaluationFailed: ``forecast_too_large``: more outputs than can be decomposed.
        """
        classes, images = self.target_CN.shape
        if self.head_only:
            values_N, vectors_NN = np.linalg.eigh(self.head_NN)
            return Modes(np.repeat(values_N[None], classes, axis=0), vectors_NN, None)
        size = classes * images
        if size > LARGEST_SPECTRUM:
            raise EvaluationFailed(
                "forecast_too_large",
                f"The kernel of {images} images and {classes} classes has {size} rows, over {LARGEST_SPECTRUM}.",
                param="method",
                hint="Use the bilinear method, fewer images, or a head that starts at zero.",
            )
        columns = self.times(np.eye(size).reshape(size, classes, images)).reshape(size, size)
        values_P, vectors_PP = np.linalg.eigh((columns + columns.T) / 2)
        return Modes(values_P.reshape(classes, images), None, vectors_PP)


class Modes:
    """The eigenvectors of a frozen kernel. Those of the head's part alone are the same for every class."""

    def __init__(self, values_CN: _Array, vectors_NN: _Array | None, vectors_PP: _Array | None) -> None:
        """Keep the eigenvalues, in the shape of the outputs, and one of the two kinds of vectors."""
        self.values_CN = values_CN
        self._vectors_NN, self._vectors_PP = vectors_NN, vectors_PP

    def project(self, outputs_CN: _Array) -> _Array:
        """Return the coefficients of outputs, in the order of the eigenvalues."""
        if self._vectors_NN is not None:
            return outputs_CN @ self._vectors_NN
        assert self._vectors_PP is not None
        return (outputs_CN.ravel() @ self._vectors_PP).reshape(outputs_CN.shape)

    def outputs(self, coefficients_CN: _Array) -> _Array:
        """Return the outputs of coefficients: the inverse of ``project``."""
        if self._vectors_NN is not None:
            return np.asarray(coefficients_CN @ self._vectors_NN.T)
        assert self._vectors_PP is not None
        return np.asarray((self._vectors_PP @ coefficients_CN.ravel()).reshape(coefficients_CN.shape))


def simulate(
    linearisation: Linearisation,
    training: Training,
    *,
    seeds: Sequence[int] = (0,),
    batches: Iterable[Batch] | None = None,
) -> Curve:
    """Return loss and accuracy after every step of mini-batch SGD on the linearised network.

    The arguments are those of the bilinear simulation.
    """
    kernel = FrozenKernel(linearisation)
    images = linearisation.num_images
    if batches is None:
        batches = batches_SB(images, training.batch_size, training.steps, seeds)
    change_SCN = np.zeros((len(seeds), *kernel.target_CN.shape))
    sgd = Sgd(training, [change_SCN])
    losses, shares = [], []
    with np.errstate(over="ignore", invalid="ignore"):
        for number, batch_SB in enumerate(batches):
            residual_SCN, loss_S, share_S = look(kernel, training, kernel.outputs_CN + change_SCN)
            losses.append(loss_S)
            shares.append(share_S)
            gradient_SCN = kernel.times(residual_SCN * weights_SN(batch_SB, images)[:, None])
            if training.weight_decay:
                gradient_SCN += training.weight_decay * (kernel.decay_CN + change_SCN)
            sgd.step(number, [gradient_SCN])
        _, loss_S, share_S = look(kernel, training, kernel.outputs_CN + change_SCN)
    return recorded([*losses, loss_S], [*shares, share_S])


def look(kernel: FrozenKernel, training: Training, outputs_SCN: _Array) -> tuple[_Array, _Array, _Array]:
    """Return the residuals (S, C, N), and mean loss and accuracy of all images (S)."""
    residual_SCN, loss_SN = residuals_and_losses(training.loss, outputs_SCN, kernel.target_CN)
    return residual_SCN, loss_SN.mean(axis=1), accuracies(outputs_SCN, kernel.labels_N)
