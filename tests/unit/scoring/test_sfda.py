"""SFDA against generalised eigenvectors, as the paper computes it.

Legend: N images, D feature dimensions, C classes.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import eigh

from app.scoring import compute


def noisy(seed, images, dimensions, classes, scale=1.0):
    random = np.random.default_rng(seed)
    labels_N = random.permutation(np.arange(images) % classes)
    centres = random.normal(size=(classes, dimensions)) * 0.7
    return (random.normal(size=(images, dimensions)) + centres[labels_N] + 1) * scale, labels_N


def pass_by_eigenvectors(features_ND, labels_N, intensity):
    """Return (probabilities N x C, the intensity used)."""
    classes = labels_N.max() + 1
    shares = np.bincount(labels_N) / len(labels_N)
    means = np.array([features_ND[labels_N == c].mean(axis=0) for c in range(classes)])
    within = sum(shares[c] * np.atleast_2d(np.cov(features_ND[labels_N == c].T, bias=True)) for c in range(classes))
    if intensity is None:
        intensity = max(np.exp(-5 * np.linalg.eigvalsh(within)[-1]), 1e-10)
    total = np.atleast_2d(np.cov(features_ND.T, bias=True))
    eye = np.eye(len(within))
    within = (1 - intensity) * within + intensity * np.trace(within) / len(within) * eye
    total = (1 - intensity) * total + intensity * np.trace(total) / len(total) * eye
    _, vectors = eigh(total - within, within)
    coefficients = means @ vectors @ vectors.T
    logits = features_ND @ coefficients.T - 0.5 * np.diag(means @ coefficients.T) + np.log(shares)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True), intensity


def by_eigenvectors(features_ND, labels_N, intensity=None, softened=True):
    rows = np.arange(len(labels_N))
    probability, intensity = pass_by_eigenvectors(features_ND, labels_N, intensity)
    if softened:
        probability = np.exp(probability) / np.exp(probability).sum(axis=1, keepdims=True)
    means = np.array([features_ND[labels_N == c].mean(axis=0) for c in range(labels_N.max() + 1)])
    mixed_ND = features_ND.copy()
    for i, label in enumerate(labels_N):
        others = np.delete(means, label, axis=0).mean(axis=0)
        mixed_ND[i] = probability[i, label] * features_ND[i] + (1 - probability[i, label]) * others
    return pass_by_eigenvectors(mixed_ND, labels_N, intensity)[0][rows, labels_N].mean()


@given(
    seed=st.integers(0, 10**6),
    dimensions=st.sampled_from([1, 2, 6, 40]),
    classes=st.integers(2, 4),
    scale=st.sampled_from([0.1, 0.3, 1.0, 20.0]),
)
@settings(deadline=None, max_examples=40)
def test_equals_the_eigenvectors(seed, dimensions, classes, scale):
    features_ND, labels_N = noisy(seed, 30, dimensions, classes, scale)
    # With an intensity of 1e-10 and fewer images than dimensions the reference itself has six digits.
    tolerance = 1e-7 if dimensions < 26 else 1e-3
    expected = by_eigenvectors(features_ND, labels_N)
    assert compute("sfda", features_ND, labels_N).value == pytest.approx(expected, rel=tolerance)


@given(seed=st.integers(0, 10**6), dimensions=st.sampled_from([1, 2, 6, 40]), classes=st.integers(2, 4))
@settings(deadline=None, max_examples=25)
def test_scalefree_equals_the_eigenvectors(seed, dimensions, classes):
    features_ND, labels_N = noisy(seed, 30, dimensions, classes, 7.0)
    x_ND = features_ND - features_ND.mean(axis=0)
    x_ND /= np.sqrt((x_ND**2).sum(axis=1).mean())
    within = sum(
        np.atleast_2d(np.cov(x_ND[labels_N == c].T, bias=True)) * np.mean(labels_N == c) for c in range(classes)
    )
    intensity = np.exp(-5 * np.linalg.eigvalsh(within)[-1])
    expected = by_eigenvectors(x_ND, labels_N, intensity, softened=False)
    assert compute("sfda_scalefree", features_ND, labels_N).value == pytest.approx(expected, rel=1e-8)


def test_scale_matters_only_to_the_published_form():
    features_ND, labels_N = noisy(0, 60, 8, 3, 0.1)
    assert compute("sfda", features_ND, labels_N).value != pytest.approx(
        compute("sfda", features_ND * 10, labels_N).value, rel=1e-3
    )
    assert compute("sfda_scalefree", features_ND * 10, labels_N).value == pytest.approx(
        compute("sfda_scalefree", features_ND, labels_N).value, rel=1e-10
    )


def test_saturation_is_said():
    features_ND, labels_N = noisy(0, 30, 60, 3, 10.0)
    result = compute("sfda", features_ND, np.random.default_rng(0).permutation(labels_N))
    assert result.value == pytest.approx(1.0, abs=1e-6)
    assert result.warnings == ("fewer_images_than_dimensions",)


@pytest.mark.parametrize("name", ["sfda", "sfda_scalefree"])
def test_constant_features_are_worth_the_class_shares(name):
    result = compute(name, np.ones((6, 3)), [0, 0, 0, 0, 1, 1])
    assert result.value == pytest.approx((4 / 6) ** 2 + (2 / 6) ** 2)
    assert result.warnings == ("constant_features",)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_any_unit_is_finite(scale):
    features_ND, labels_N = noisy(0, 30, 6, 3)
    assert 0 < compute("sfda", features_ND * scale, labels_N).value <= 1
