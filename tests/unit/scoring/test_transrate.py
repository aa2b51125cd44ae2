"""TransRate against determinants of D x D matrices.

Legend: N images, D feature dimensions.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.scoring import compute

FEATURES = [[1, 0, 2], [2, 1, 0], [0, 1, 1], [1, 1, 3], [3, 0, 1], [2, 2, 0]]
LABELS = [0, 0, 1, 1, 2, 2]


def rate(x_ND, epsilon=1e-4):
    return np.linalg.slogdet(np.eye(x_ND.shape[1]) + x_ND.T @ x_ND / (len(x_ND) * epsilon))[1] / 2


def by_determinants(name, features_ND, labels_N):
    x_ND = features_ND - features_ND.mean(axis=0)
    if name == "transrate_scalefree":
        x_ND = x_ND / np.sqrt((x_ND**2).sum(axis=1).mean())
    classes, within = set(labels_N.tolist()), 0.0
    for label in classes:
        own = labels_N == label
        share = own.mean() if name == "transrate_scalefree" else 1 / len(classes)
        within += share * rate(x_ND[own])
    return rate(x_ND) - within


def test_golden_value():
    assert compute("transrate", FEATURES, LABELS).value == pytest.approx(4.0075236973, abs=5e-11)


@pytest.mark.parametrize("name", ["transrate", "transrate_scalefree"])
@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=4).filter(lambda counts: sum(counts) > 3),
    dimensions=st.integers(1, 14),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=40)
def test_equals_the_determinants(name, counts, dimensions, scale, seed):
    random = np.random.default_rng(seed)
    labels_N = random.permutation(np.repeat(np.arange(len(counts)), counts))
    features_ND = (random.normal(size=(len(labels_N), dimensions)) + labels_N[:, None]) * scale
    expected = by_determinants(name, features_ND, labels_N)
    assert compute(name, features_ND, labels_N).value == pytest.approx(expected, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("name", ["transrate", "transrate_scalefree"])
def test_no_standard_error_rather_than_a_wrong_one(name):
    result = compute(name, FEATURES, LABELS)
    assert (result.influence_N, result.stderr) == (None, None)


def test_scale_counts_only_in_the_papers_form():
    values = {
        name: [compute(name, np.array(FEATURES) * scale, LABELS).value for scale in (1e-3, 1.0, 1e3)]
        for name in ("transrate", "transrate_scalefree")
    }
    assert values["transrate"][0] < values["transrate"][1] / 2 < values["transrate"][2]
    assert values["transrate_scalefree"] == pytest.approx([values["transrate_scalefree"][0]] * 3, rel=1e-12)


def test_a_large_scale_adds_its_logarithm_for_every_rank():
    random = np.random.default_rng(0)
    labels_N = np.arange(20) % 2
    features_ND = random.normal(size=(20, 4))
    at = {scale: compute("transrate", features_ND * scale, labels_N).value for scale in (1e3, 1e6, 1e9, 1e150)}
    # Both rates grow by 4 log(scale), so their difference has a limit; the two ways to compute it meet.
    assert at[1e6] == pytest.approx(at[1e3], rel=1e-6)
    assert at[1e9] == pytest.approx(at[1e6], rel=1e-9)
    assert at[1e150] == pytest.approx(at[1e9], rel=1e-9)


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
@pytest.mark.parametrize("shape", [(20, 4), (12, 30)])
def test_any_scale_gives_a_number(scale, shape):
    features_ND = np.random.default_rng(0).normal(size=shape) * scale
    assert np.isfinite(compute("transrate", features_ND, np.arange(shape[0]) % 3).value)


def test_class_blocks_are_not_centred_again():
    labels_N = np.repeat([0, 1], 10)
    features_ND = np.where(labels_N == 0, -1.0, 1.0)[:, None]  # each class is a single point off the centre
    assert compute("transrate", features_ND, labels_N).value == pytest.approx(0.0, abs=1e-12)
