"""H-scores against pseudo-inverses, finite differences and shuffled labels.

Legend: N images, D feature dimensions, C classes.
"""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf

from app.scoring import Panel, compute, measure

FEATURES = [[1, 0, 2], [2, 1, 0], [0, 1, 1], [1, 1, 3], [3, 0, 1], [2, 2, 0]]
LABELS = [0, 0, 1, 1, 2, 2]


def weighted_scatters(x_ND, labels_N, weights_N):
    """Return (total, between) covariance matrices of images with weights."""
    share_N = weights_N / weights_N.sum()
    x_ND = x_ND - share_N @ x_ND
    between_DD = np.zeros((x_ND.shape[1],) * 2)
    for label in set(labels_N):
        own = labels_N == label
        mean_D = share_N[own] @ x_ND[own] / share_N[own].sum()
        between_DD += share_N[own].sum() * np.outer(mean_D, mean_D)
    return (x_ND * share_N[:, None]).T @ x_ND, between_DD


def by_pseudo_inverse(x_ND, labels_N, weights_N=None):
    total_DD, between_DD = weighted_scatters(x_ND, labels_N, np.ones(len(x_ND)) if weights_N is None else weights_N)
    return np.trace(np.linalg.pinv(total_DD, rcond=1e-10, hermitian=True) @ between_DD)


def by_shrinkage(x_ND, labels_N, weights_N=None):
    """Return the score with Ledoit and Wolf's shrinkage, an image of weight two being two images."""
    weights_N = np.ones(len(x_ND)) if weights_N is None else weights_N
    n, d = weights_N.sum(), x_ND.shape[1]
    total_DD, between_DD = weighted_scatters(x_ND, labels_N, weights_N)
    mu = np.trace(total_DD) / d
    norms_N = ((x_ND - weights_N @ x_ND / n) ** 2).sum(axis=1)
    error = (weights_N @ norms_N**2 / n - (total_DD**2).sum()) / (n * d)
    alpha = error / ((total_DD**2).sum() / d - mu**2)
    shrunk_DD = (1 - alpha) * total_DD + alpha * mu * np.eye(d)
    return (1 - alpha) * np.trace(np.linalg.solve(shrunk_DD, between_DD))


REFERENCE = {"hscore": by_pseudo_inverse, "hscore_regularized": by_shrinkage}


@st.composite
def feature_sets(draw):
    classes, dimensions = draw(st.integers(2, 4)), draw(st.integers(2, 12))
    counts = draw(st.lists(st.integers(1, 6), min_size=classes, max_size=classes).filter(lambda c: sum(c) >= 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels_N = random.permutation(np.repeat(np.arange(classes), counts))
    x_ND = random.normal(size=(len(labels_N), dimensions)) + labels_N[:, None] * draw(st.sampled_from([0.0, 0.5, 3.0]))
    rank = draw(st.integers(1, dimensions))
    mixed_ND = x_ND[:, :rank] @ random.normal(size=(rank, dimensions))
    return (mixed_ND if draw(st.booleans()) else x_ND), labels_N


def test_golden_value():
    assert compute("hscore", FEATURES, LABELS).value == pytest.approx(1.03125, abs=1e-12)


@pytest.mark.parametrize("name", REFERENCE)
@given(data=feature_sets())
@settings(deadline=None, max_examples=40)
def test_equals_the_matrices(name, data):
    x_ND, labels_N = data
    result = compute(name, x_ND, labels_N)
    if "fully_shrunk" not in result.warnings:
        assert result.value == pytest.approx(REFERENCE[name](x_ND, labels_N), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("shape", [(40, 6), (20, 35)], ids=["tall", "wide"])
@pytest.mark.parametrize("rank", [3, 100])
def test_influences_are_derivatives_by_weights(name, shape, rank):
    random = np.random.default_rng(1)
    labels_N = np.repeat([0, 1, 2], [shape[0] - 12, 8, 4])
    x_ND = random.normal(size=shape) + random.normal(size=(3, shape[1]))[labels_N]
    x_ND = x_ND[:, :rank] @ random.normal(size=(min(rank, shape[1]), shape[1]))
    result = compute(name, x_ND, labels_N)
    if "saturated" in result.warnings:
        assert result.influence_N is None
        return
    for image in (0, 5, shape[0] - 9, shape[0] - 1):
        up_N, down_N = np.ones(shape[0]), np.ones(shape[0])
        up_N[image], down_N[image] = 1 + 1e-5, 1 - 1e-5
        slope = (REFERENCE[name](x_ND, labels_N, up_N) - REFERENCE[name](x_ND, labels_N, down_N)) / 2e-5
        assert result.influence_N[image] == pytest.approx(slope, rel=1e-5, abs=1e-8)
    if name == "hscore":  # every image counted twice changes nothing; a shrinkage for twice the images is less
        assert result.influence_N.sum() == pytest.approx(0, abs=1e-9)


def spread_classes(seed, spread, per_class=40):
    """Draw four classes of 12 alike dimensions, whose centres do not depend on the seed."""
    labels_N = np.repeat(np.arange(4), per_class)
    centres_CD = np.random.default_rng(99).normal(size=(4, 12)) * spread
    return Panel(np.random.default_rng(seed).normal(size=(len(labels_N), 12)) + centres_CD[labels_N], labels_N)


def test_regularized_influences_predict_what_leaving_an_image_out_does():
    panel = spread_classes(0, 0.6)
    result = measure("hscore_regularized", panel)
    removed = np.arange(0, panel.num_images, 8)
    change = [
        result.value
        - compute("hscore_regularized", np.delete(panel.features_ND, i, 0), np.delete(panel.labels_N, i)).value
        for i in removed
    ]
    assert np.corrcoef(change, result.influence_N[removed])[0, 1] > 0.97
    assert np.std(result.influence_N[removed]) == pytest.approx(np.std(change), rel=0.15)


def test_regularized_intervals_cover():
    results = [measure("hscore_regularized", spread_classes(seed, 0.6)) for seed in range(300)]
    truth = np.mean([result.value for result in results])
    reach = NormalDist().inv_cdf(0.9)
    assert 0.75 <= np.mean([abs(result.value - truth) <= reach * result.stderr for result in results]) <= 0.85


def test_no_standard_error_where_full_shrinkage_is_within_reach():
    near = [measure("hscore_regularized", spread_classes(seed, 0.35)) for seed in range(40)]
    assert any("fully_shrunk" in result.warnings for result in near)
    assert np.mean([result.stderr is None for result in near]) > 0.7
    assert all(measure("hscore_regularized", spread_classes(seed, 0.7)).stderr for seed in range(40))


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("shape", [(25, 4), (12, 30)])
def test_null_value_is_the_mean_over_shuffled_labels(name, shape):
    random = np.random.default_rng(2)
    labels_N = np.repeat([0, 1, 2], [shape[0] - 6, 4, 2])
    panel = Panel(random.normal(size=shape) * np.linspace(0.1, 3, shape[1]), labels_N)
    nulls = [measure(name, panel.with_labels(random.permutation(labels_N))).value for _ in range(1000)]
    stderr = np.std(nulls) / math.sqrt(len(nulls))
    assert measure(name, panel).null_value == pytest.approx(np.mean(nulls), abs=4 * stderr + 1e-12)


def test_saturation_is_said():
    labels_N = np.arange(20) % 4
    features_ND = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
    result = compute("hscore", features_ND, labels_N)
    assert (result.value, result.null_value, result.warnings) == (3.0, 3.0, ("saturated",))
    square = compute("hscore", features_ND[:, :19], labels_N)
    assert (square.value, square.warnings) == (3.0, ("saturated",))
    assert compute("hscore", features_ND[:, :18], labels_N).value < 3


@pytest.mark.parametrize("name", REFERENCE)
def test_copies_of_columns_add_nothing_to_the_plain_score(name):
    random = np.random.default_rng(3)
    labels_N = np.arange(60) % 3
    x_ND = random.normal(size=(60, 5)) + random.normal(size=(3, 5))[labels_N]
    plain = compute(name, x_ND, labels_N).value
    for copies in (4, 30):  # 20 and 150 dimensions, both of rank 5
        copied = compute(name, np.hstack([x_ND] * copies), labels_N).value
        assert copied == pytest.approx(plain, rel=1e-9 if name == "hscore" else 0.5)


def test_public_code_divides_by_one_image_less():
    random = np.random.default_rng(4)
    labels_N = np.arange(30) % 3
    x_ND = random.normal(size=(30, 8)) + random.normal(size=(3, 8))[labels_N]
    shrunk_DD, alpha = ledoit_wolf(x_ND)
    means_ND = np.stack([x_ND[labels_N == label].mean(axis=0) for label in range(3)])[labels_N]
    public = (1 - alpha) * np.trace(np.linalg.inv(shrunk_DD) @ np.cov(means_ND.T))
    assert compute("hscore_regularized", x_ND, labels_N).value == pytest.approx(public * 29 / 30, rel=1e-9)


def test_one_dimension_needs_no_shrinkage():
    x_N, labels_N = np.array([0.0, 1.0, 4.0, 5.0]), [0, 0, 1, 1]
    expected = 16 / 17  # between 4, total 4.25
    assert compute("hscore", x_N[:, None], labels_N).value == pytest.approx(expected, rel=1e-12)
    assert compute("hscore_regularized", x_N[:, None], labels_N).value == pytest.approx(expected, rel=1e-9)
