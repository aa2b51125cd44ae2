"""PACTran with a Gaussian prior against scipy's minimum in all D dimensions.

Legend: N images, D feature dimensions, C classes.
"""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from app.domain.errors import EvaluationFailed
from app.scoring import compute


def noisy(seed, images, dimensions, classes, signal=1.0):
    random = np.random.default_rng(seed)
    labels_N = random.permutation(np.arange(images) % classes)
    centres = random.normal(size=(classes, dimensions)) * signal
    return random.normal(size=(images, dimensions)) + centres[labels_N] + 2, labels_N


def bound(features_ND, labels_N, width=10.0, variance=100.0):
    x_ND = features_ND - features_ND.mean(axis=0)
    n, dimensions = x_ND.shape
    one_hot_NC = np.eye(labels_N.max() + 1)[labels_N]
    classes = one_hot_NC.shape[1]

    def loss(flat):
        theta = flat.reshape(dimensions + 1, classes)
        logits = x_ND @ theta[:-1] + theta[-1]
        error = (softmax(logits, axis=1) - one_hot_NC) / n
        gradient = np.vstack([x_ND.T @ error + theta[:-1] / (width * n), error.sum(axis=0)])
        value = -(one_hot_NC * log_softmax(logits, axis=1)).sum() / n + 0.5 * (theta[:-1] ** 2).sum() / (width * n)
        return value, gradient.ravel()

    found = minimize(
        loss,
        np.random.default_rng(0).normal(size=(dimensions + 1) * classes) * 0.03,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 20000, "maxfun": 100000, "ftol": 1e-15, "gtol": 1e-9},
    )
    theta = found.x.reshape(dimensions + 1, classes)
    probability = softmax(x_ND @ theta[:-1] + theta[-1], axis=1)
    curvature = probability - probability**2
    hessian = ((x_ND**2).T @ curvature + 1 / (width * n)).sum() + curvature.sum()
    weights = dimensions * classes
    log_term = np.log(hessian * width * n / weights)
    return found.fun + 0.5 * weights / (width * n) * variance / dimensions * log_term


@pytest.mark.parametrize("shape", [(60, 5), (40, 1), (25, 50)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_minimum(shape, seed):
    features_ND, labels_N = noisy(seed, *shape, 3, 0.5)
    expected = -bound(features_ND, labels_N)
    assert compute("pactran_gauss", features_ND, labels_N).value == pytest.approx(expected, rel=2e-6)


def test_constant_features_cost_the_entropy_of_the_classes():
    result = compute("pactran_gauss", np.ones((6, 3)), [0, 0, 0, 0, 1, 1])
    assert result.value == pytest.approx(-bound(np.ones((6, 3)), np.array([0, 0, 0, 0, 1, 1])), rel=1e-6)
    assert result.warnings == ("constant_features",)


def test_features_of_any_size_have_a_value_or_a_refusal():
    features_ND, labels_N = noisy(0, 30, 5, 3)
    assert np.isfinite(compute("pactran_gauss", features_ND * 1e-200, labels_N).value)
    with pytest.raises(EvaluationFailed) as caught:
        compute("pactran_gauss", features_ND * 1e200, labels_N)
    assert caught.value.code == "features_too_large"
    assert caught.value.hint
