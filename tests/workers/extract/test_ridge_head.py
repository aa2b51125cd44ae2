"""The directions of a ridge head, against the head in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.extract.ridge_head import _PENALTIES, ridge_head_DP


def closed_form(features_ND: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return the head (C x D) of the penalty whose left-out images are predicted best."""
    centred_ND = features_ND - features_ND.mean(axis=0)
    one_hot_NC = np.eye(labels_N.max() + 1)[labels_N]
    found = []
    for penalty in _PENALTIES * len(centred_ND) * np.square(centred_ND).mean():
        errors = []
        for left_out in range(len(centred_ND)):
            kept = np.arange(len(centred_ND)) != left_out
            x, y = centred_ND[kept], one_hot_NC[kept]
            x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
            gram = (x - x_mean).T @ (x - x_mean) + penalty * np.eye(x.shape[1])
            weights = np.linalg.solve(gram, (x - x_mean).T @ (y - y_mean))
            errors.append(one_hot_NC[left_out] - y_mean - (centred_ND[left_out] - x_mean) @ weights)
        found.append((np.square(errors).mean(), penalty))
    penalty = min(found)[1]
    gram = centred_ND.T @ centred_ND + penalty * np.eye(centred_ND.shape[1])
    return np.linalg.solve(gram, centred_ND.T @ (one_hot_NC - one_hot_NC.mean(axis=0))).T


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 5), dimensions=st.integers(5, 9))
def test_all_directions_have_the_heads_summed_kernel(seed: int, classes: int, dimensions: int) -> None:
    random = np.random.default_rng(seed)
    labels_N = np.arange(24) % classes
    features_ND = random.standard_normal((classes, dimensions))[labels_N] + 0.5 * random.standard_normal(
        (24, dimensions)
    )
    found_DP = ridge_head_DP(features_ND, labels_N, classes)
    assert found_DP.shape == (dimensions, classes - 1), "the columns of one-hot labels add up to one"
    assert np.square(found_DP).sum(axis=0).mean() == pytest.approx(1, rel=1e-5)
    head_CD = closed_form(features_ND, labels_N)
    expected_DD = head_CD.T @ head_CD
    kernel_DD = found_DP.astype(float) @ found_DP.T
    kernel_DD *= np.trace(expected_DD) / np.trace(kernel_DD)
    np.testing.assert_allclose(kernel_DD, expected_DD, atol=1e-4 * np.abs(expected_DD).max())


def test_fewer_directions_are_the_longest() -> None:
    random = np.random.default_rng(0)
    labels_N = np.arange(40) % 5
    features_ND = random.standard_normal((5, 12))[labels_N] + random.standard_normal((40, 12))
    whole_DP, two_DP = ridge_head_DP(features_ND, labels_N, 4), ridge_head_DP(features_ND, labels_N, 2)
    lengths = np.linalg.norm(whole_DP, axis=0)
    assert (np.diff(lengths) < 0).all()
    cosines = (whole_DP[:, :2] * two_DP).sum(axis=0) / lengths[:2] / np.linalg.norm(two_DP, axis=0)
    np.testing.assert_allclose(np.abs(cosines), 1, rtol=1e-5)


def test_features_that_tell_nothing_still_give_a_direction() -> None:
    found_DP = ridge_head_DP(np.ones((12, 4)), np.arange(12) % 3, 4)
    assert found_DP.shape == (4, 1)
    assert np.isfinite(found_DP).all()
