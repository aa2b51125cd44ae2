"""ETran's parts against loops.

Legend: N images, D feature dimensions, C classes.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal

from app.scoring import Panel, compute
from app.scoring.features.discriminant import ledoit_wolf


def noisy(seed, images, dimensions, classes, scale=1.0):
    random = np.random.default_rng(seed)
    labels_N = random.permutation(np.arange(images) % classes)
    centres = random.normal(size=(classes, dimensions)) * 0.5
    return (random.normal(size=(images, dimensions)) + centres[labels_N] + 1) * scale, labels_N


@given(
    seed=st.integers(0, 10**6),
    images=st.sampled_from([20, 199, 200, 450]),
    dimensions=st.integers(1, 8),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
)
@settings(deadline=None, max_examples=40)
def test_published_parts(seed, images, dimensions, scale):
    features_ND, labels_N = noisy(seed, images, dimensions, 3, scale)
    energy_N = np.sort(logsumexp(features_ND, axis=1))
    lowest = energy_N[: max(1, int(0.5 * 10) * images // 1000)]
    assert compute("etran_energy", features_ND, labels_N).value == pytest.approx(lowest.mean(), rel=1e-9, abs=1e-9)
    means = np.array([features_ND[labels_N == c].mean(axis=0) for c in range(3)])
    logits = features_ND @ means.T - 0.5 * (means**2).sum(axis=1) + np.log(np.bincount(labels_N) / images)
    own_N = softmax(logits, axis=1)[np.arange(images), labels_N]
    assert compute("etran_class", features_ND, labels_N).value == pytest.approx(own_N.mean(), rel=1e-8)


@pytest.mark.parametrize("shape", [(40, 6), (25, 60)])
def test_mended_parts(shape):
    features_ND, labels_N = noisy(2, *shape, 3)
    x_ND = features_ND / np.sqrt((features_ND**2).mean())
    energy = min(logsumexp(row) for row in x_ND) - np.log(shape[1])
    assert compute("etran_mended_energy", features_ND, labels_N).value == pytest.approx(energy, rel=1e-9)

    panel = Panel(features_ND, labels_N)
    shrinkage = ledoit_wolf(panel)
    within_ND = features_ND - np.array([features_ND[labels_N == c].mean(axis=0) for c in range(3)])[labels_N]
    covariance = (1 - shrinkage.intensity) * within_ND.T @ within_ND / shape[0]
    covariance += shrinkage.intensity * shrinkage.variance * panel.scale**2 * np.eye(shape[1])
    density = np.stack(
        [
            multivariate_normal(features_ND[labels_N == c].mean(axis=0), covariance).logpdf(features_ND)
            + np.log(np.mean(labels_N == c))
            for c in range(3)
        ],
        axis=1,
    )
    own_N = softmax(density, axis=1)[np.arange(shape[0]), labels_N]
    assert compute("etran_mended_class", features_ND, labels_N).value == pytest.approx(own_N.mean(), rel=1e-7)


def test_zeros_have_an_energy():
    labels_N = [0, 0, 1, 1]
    assert compute("etran_energy", np.zeros((4, 8)), labels_N).value == pytest.approx(np.log(8))
    assert compute("etran_mended_energy", np.zeros((4, 8)), labels_N).value == 0.0


@pytest.mark.parametrize("scale", [1e-250, 1e-150, 1e150, 1e250])
def test_any_unit_is_finite(scale):
    features_ND, labels_N = noisy(0, 30, 6, 3)
    assert np.isfinite(compute("etran_energy", features_ND * scale, labels_N).value)
    assert 0 < compute("etran_class", features_ND * scale, labels_N).value <= 1
