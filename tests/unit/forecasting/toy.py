"""A network that is linear in its parameters, and its training in the space of these: the reference of the simulations.

Legend: N images, D feature dimensions, C classes, Q directions, K parameters of the backbone.
"""

from dataclasses import dataclass

import numpy as np

from app.forecasting.linearisation import linearise


@dataclass(eq=False)
class Toy:
    features_ND: np.ndarray
    labels_N: np.ndarray
    jacobian_NDK: np.ndarray
    theta_K: np.ndarray
    basis_DQ: np.ndarray
    head_CD: np.ndarray
    bias_C: np.ndarray

    @classmethod
    def random(cls, seed=0, *, images=18, dimensions=7, classes=3, directions=2, parameters=40, head=0.0):
        rng = np.random.default_rng(seed)
        return cls(
            features_ND=np.abs(rng.standard_normal((images, dimensions))),
            labels_N=np.arange(images) % classes,
            jacobian_NDK=rng.standard_normal((images, dimensions, parameters)) / np.sqrt(parameters),
            theta_K=rng.standard_normal(parameters),
            basis_DQ=np.linalg.qr(rng.standard_normal((dimensions, directions)))[0],
            head_CD=head * rng.standard_normal((classes, dimensions)),
            bias_C=head * rng.standard_normal(classes),
        )

    @property
    def along_NQK(self):
        return np.einsum("dq,ndk->nqk", self.basis_DQ, self.jacobian_NDK)

    @property
    def one_hot_NC(self):
        return np.eye(len(self.head_CD))[self.labels_N]

    def class_kernel_PP(self):
        rows = self.along_NQK.reshape(-1, len(self.theta_K))
        return rows @ rows.T

    def linearise(self, **changes):
        measured = {
            "num_classes": len(self.head_CD),
            "basis_DQ": self.basis_DQ,
            "class_kernel_PP": self.class_kernel_PP(),
            "decay_NQ": self.along_NQK @ self.theta_K,
            "head_CD": self.head_CD,
            "bias_C": self.bias_C,
        }
        return linearise(self.features_ND, self.labels_N, **{**measured, **changes})


def gradient_and_loss(loss, outputs_NC, one_hot_NC):
    if loss == "squared":
        return outputs_NC - one_hot_NC, 0.5 * ((outputs_NC - one_hot_NC) ** 2).sum(1)
    shares = np.exp(outputs_NC - outputs_NC.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return shares - one_hot_NC, -np.log((shares * one_hot_NC).sum(1))


def train(toy, training, batches, *, bilinear):
    """Return loss and accuracy before each batch and after the last, of SGD on head, bias and backbone parameters.

    ``bilinear``: f = W (phi0 + Q Q' J (theta - theta0)) + b; otherwise its linearisation at the initial parameters.
    """
    start = [toy.head_CD.copy(), toy.bias_C.copy(), toy.theta_K.copy()]
    weights = [array.copy() for array in start]
    velocities = [np.zeros_like(array) for array in weights]
    losses, accuracies = [], []
    for number, batch in enumerate([*batches, None]):
        head_CD, bias_C, theta_K = weights
        moved_ND = (toy.along_NQK @ (theta_K - start[2])) @ toy.basis_DQ.T
        if bilinear:
            features_ND, pulling_CD = toy.features_ND + moved_ND, head_CD
            outputs_NC = features_ND @ head_CD.T + bias_C
        else:
            features_ND, pulling_CD = toy.features_ND, start[0]
            outputs_NC = features_ND @ head_CD.T + bias_C + moved_ND @ start[0].T
        residual_NC, loss_N = gradient_and_loss(training.loss, outputs_NC, toy.one_hot_NC)
        losses.append(loss_N.mean())
        accuracies.append((outputs_NC.argmax(1) == toy.labels_N).mean())
        if batch is None:
            return np.array(losses), np.array(accuracies)
        residual_NC = residual_NC[batch] / len(batch)
        force_NQ = residual_NC @ pulling_CD @ toy.basis_DQ
        gradients = [
            residual_NC.T @ features_ND[batch],
            residual_NC.sum(0),
            np.einsum("nq,nqk->k", force_NQ, toy.along_NQK[batch]),
        ]
        for weight, velocity, gradient in zip(weights, velocities, gradients, strict=True):
            gradient = gradient + training.weight_decay * weight
            velocity[:] = training.momentum * velocity + gradient
            step = gradient + training.momentum * velocity if training.nesterov else velocity
            weight -= training.rate_at(number) * step
    raise AssertionError
