"""PED against the published loop over coordinates.

Legend: N images, D feature dimensions, C classes.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.scoring import compute
from tests.unit.scoring.test_sfda import by_eigenvectors


def noisy(seed, images, dimensions, classes, spread):
    random = np.random.default_rng(seed)
    labels_N = random.permutation(np.arange(images) % classes)
    centres = random.normal(size=(classes, dimensions)) * spread
    sizes = random.uniform(0.5, 2, size=dimensions)
    return (random.normal(size=(images, dimensions)) + centres[labels_N]) * sizes + 1, labels_N


def moved(features_ND, labels_N):
    """Move classes pair by pair, with all C x C x D forces."""
    classes, start_ND, first = labels_N.max() + 1, features_ND, None
    centre_D, size_D = features_ND.mean(axis=0), features_ND.std(axis=0)
    z_ND = (start_ND - centre_D) / size_D
    for _ in range(6):
        means = np.array([z_ND[labels_N == c].mean(axis=0) for c in range(classes)])
        radii = [0.6 * np.sqrt(z_ND[labels_N == c].var(axis=0).sum()) for c in range(classes)]
        shift_CD = np.zeros_like(means)
        for a in range(classes):
            for b in range(classes):
                if a != b:
                    line_D = means[a] - means[b]
                    distance = np.linalg.norm(line_D)
                    overlap = max(radii[a] + radii[b] - distance, 0)
                    shift_CD[a] += line_D / distance * min(0.5 * 0.1**2 * overlap, overlap)
        change = np.linalg.norm(shift_CD, axis=1).sum()
        first = change if first is None else first
        if change <= 0.5 * first:
            break
        z_ND = z_ND + shift_CD[labels_N]
    return z_ND * size_D + centre_D


@given(
    seed=st.integers(0, 10**6),
    dimensions=st.sampled_from([2, 6, 30]),
    classes=st.integers(2, 4),
    spread=st.sampled_from([0.1, 0.5, 2.0]),
)
@settings(deadline=None, max_examples=30)
def test_equals_the_loops(seed, dimensions, classes, spread):
    features_ND, labels_N = noisy(seed, 40, dimensions, classes, spread)
    expected = by_eigenvectors(moved(features_ND, labels_N), labels_N)
    assert compute("ped", features_ND, labels_N).value == pytest.approx(expected, rel=1e-6)


def test_wide_features_equal_the_loops():
    features_ND, labels_N = noisy(0, 30, 60, 3, 0.1)
    features_ND *= 0.2  # shrunk enough that the reference keeps its digits
    expected = by_eigenvectors(moved(features_ND, labels_N), labels_N)
    assert compute("ped", features_ND, labels_N).value == pytest.approx(expected, rel=1e-6)


def test_overlapping_classes_move_apart():
    features_ND, labels_N = noisy(1, 60, 6, 3, 0.2)
    assert compute("ped", features_ND, labels_N).value > compute("sfda", features_ND, labels_N).value + 1e-3


def test_coincident_means_stay():
    points_ND = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert compute("ped", points_ND, [0, 0, 1, 1]).value == pytest.approx(0.5)


def test_constant_features_are_worth_the_class_shares():
    result = compute("ped", np.ones((6, 3)), [0, 0, 0, 0, 1, 1])
    assert result.value == pytest.approx((4 / 6) ** 2 + (2 / 6) ** 2)
    assert result.warnings == ("constant_features",)
