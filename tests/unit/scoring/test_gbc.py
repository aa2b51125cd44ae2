"""GBC against the formula with matrices, pair by pair, and finite differences.

Legend: N images, D feature dimensions.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.scoring import compute


def overlap(first_D, first_DD, second_D, second_DD):
    mean_DD, difference_D = (first_DD + second_DD) / 2, first_D - second_D
    log_determinants = [np.linalg.slogdet(m_DD)[1] for m_DD in (mean_DD, first_DD, second_DD)]
    distance = difference_D @ np.linalg.solve(mean_DD, difference_D) / 8
    return np.exp(-distance - log_determinants[0] / 2 + (log_determinants[1] + log_determinants[2]) / 4)


def by_pairs(name, features_ND, labels_N, weights_N=None):
    x_ND, d = np.asarray(features_ND, dtype=float), features_ND.shape[1]
    weights_N = np.ones(len(x_ND)) if weights_N is None else weights_N
    share_N = weights_N / weights_N.sum()
    total_D = share_N @ (x_ND - share_N @ x_ND) ** 2
    moments, pooled_DD = [], np.zeros((d, d))
    for label in np.unique(labels_N):
        own_N = np.where(labels_N == label, weights_N, 0)
        mean_D = own_N @ x_ND / own_N.sum()
        covariance_DD = (x_ND - mean_D).T @ ((x_ND - mean_D) * own_N[:, None]) / own_N.sum()
        pooled_DD += covariance_DD * own_N.sum() / weights_N.sum()
        moments.append((mean_D, covariance_DD, own_N.sum()))
    gaussians = []
    for mean_D, covariance_DD, size in moments:
        if name == "gbc_diagonal":
            shaped_DD = np.diag(np.maximum(np.diag(covariance_DD), 1e-4 * total_D))
        elif name == "gbc_spherical":
            shaped_DD = np.eye(d) * max(np.trace(covariance_DD) / d, 1e-4 * total_D.mean())
        else:
            shaped_DD = (size * covariance_DD + d * pooled_DD) / (size + d) + 1e-4 * total_D.mean() * np.eye(d)
        gaussians.append((mean_D, shaped_DD))
    pairs = [(i, j) for i in range(len(gaussians)) for j in range(len(gaussians)) if i != j]
    return -sum(overlap(*gaussians[i], *gaussians[j]) for i, j in pairs)


NAMES = ("gbc", "gbc_diagonal", "gbc_spherical")


@pytest.mark.parametrize("name", NAMES)
@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=5).filter(lambda counts: sum(counts) > 8),
    dimensions=st.integers(1, 7),
    spread=st.sampled_from([0.0, 0.5, 2.0]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=40)
def test_equals_the_sum_over_pairs(name, counts, dimensions, spread, seed):
    random = np.random.default_rng(seed)
    labels_N = random.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = random.normal(size=(len(counts), dimensions)) * spread
    features_ND = random.normal(size=(len(labels_N), dimensions)) * np.linspace(1, 3, dimensions) + centres[labels_N]
    expected = by_pairs(name, features_ND, labels_N)
    assert compute(name, features_ND, labels_N).value == pytest.approx(expected, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("name", ["gbc_diagonal", "gbc_spherical"])
def test_influences_are_derivatives_by_weights(name):
    random = np.random.default_rng(1)
    labels_N = np.repeat([0, 1, 2], [9, 6, 4])
    features_ND = random.normal(size=(19, 5)) + random.normal(size=(3, 5))[labels_N]
    result = compute(name, features_ND, labels_N)
    for image in range(0, 19, 3):
        up_N, down_N = np.ones(19), np.ones(19)
        up_N[image], down_N[image] = 1 + 1e-5, 1 - 1e-5
        slope = by_pairs(name, features_ND, labels_N, up_N) - by_pairs(name, features_ND, labels_N, down_N)
        assert result.influence_N[image] == pytest.approx(slope / 2e-5, rel=1e-6, abs=1e-10)


def test_public_values():
    """A set of equal and one of unequal variances; the spherical one has a closed form by hand."""
    labels_N = np.repeat([0, 1], 2)
    features_ND = np.array([[1.0, 1, 1], [-1, -1, -1], [3, 3, 3], [-3, -3, -3]])  # variances 1 and 9, one mean
    expected = -2 * (3 / 5) ** (3 / 2)  # sqrt(1 * 9) / 5 in each of three dimensions, to the power one half
    for name in ("gbc_spherical", "gbc_diagonal"):
        assert compute(name, features_ND, labels_N).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_range(name):
    random = np.random.default_rng(0)
    labels_N = np.arange(60) % 4
    noise = compute(name, random.normal(size=(60, 3)), labels_N).value
    apart = compute(name, random.normal(size=(60, 3)) + 1000 * np.eye(4)[labels_N][:, :3], labels_N).value
    constant = compute(name, np.ones((60, 3)), labels_N)
    assert -12 < noise < -5
    assert apart == pytest.approx(0.0, abs=1e-12)
    assert (constant.value, constant.null_value, constant.warnings) == (-12.0, -12.0, ("constant_features",))


@pytest.mark.parametrize("name", NAMES)
def test_classes_of_one_point_are_apart_by_the_variance_floor(name):
    labels_N = np.repeat([0, 1, 2], 4)
    features_ND = np.random.default_rng(0).normal(size=(3, 5))[labels_N]
    result = compute(name, features_ND, labels_N)
    assert -6 <= result.value <= 0
    assert result.value > -1e-3


@pytest.mark.parametrize("name", NAMES)
def test_more_dimensions_than_images_and_many_classes(name):
    random = np.random.default_rng(2)
    labels_N = np.arange(240) % 120
    features_ND = random.normal(size=(240, 400)) + 0.1 * random.normal(size=(120, 400))[labels_N]
    result = compute(name, features_ND, labels_N)
    assert -120 * 119 < result.value <= 0


def test_only_the_first_64_principal_dimensions_count():
    random = np.random.default_rng(3)
    labels_N = np.arange(300) % 3
    wide_ND = random.normal(size=(300, 90)) * np.repeat([3.0, 0.5], [64, 26])
    axes_ND = (wide_ND - wide_ND.mean(axis=0)) @ np.linalg.svd(wide_ND - wide_ND.mean(axis=0))[2].T
    expected = by_pairs("gbc", axes_ND[:, :64], labels_N)
    assert compute("gbc", wide_ND, labels_N).value == pytest.approx(expected, rel=1e-8)
