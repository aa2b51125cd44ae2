"""Label-feature correlation against N x N matrices and brute-force leave-one-out.

Legend: N images, D feature dimensions.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from app.scoring import Panel, compute, measure

GOLDEN_FEATURES = [[1, 0, 2], [2, 1, 0], [0, 1, 1], [1, 1, 3], [3, 0, 1], [2, 2, 0]]
GOLDEN_LABELS = [0, 0, 1, 1, 2, 2]
GOLDEN = {
    "lfc": 0.3138244431,
    "lfc_offdiagonal": 0.0498341621,
    "lfc_centered": 0.4607145465,
    "lfc_cosine": 0.4513530374,
}


def by_matrices(name, features_ND, labels_N):
    """Return the score from the two N x N matrices, as the papers write it."""
    features_ND, labels_N = np.asarray(features_ND, dtype=float), np.asarray(labels_N)
    n = len(labels_N)
    if name == "lfc_cosine":
        length_N = np.linalg.norm(features_ND, axis=1, keepdims=True)
        features_ND = features_ND / np.where(length_N > 0, length_N, 1)
    gram_NN = features_ND @ features_ND.T
    same_NN = np.where(labels_N[:, None] == labels_N, 1.0, -1.0)
    if name == "lfc_offdiagonal":
        off = ~np.eye(n, dtype=bool)
        gram_NN, same_NN = gram_NN[off], same_NN[off]
    if name == "lfc_centered":
        centring_NN = np.eye(n) - 1 / n
        gram_NN, same_NN = centring_NN @ gram_NN @ centring_NN, centring_NN @ same_NN @ centring_NN
        return (gram_NN * same_NN).sum() / (np.linalg.norm(gram_NN) * np.linalg.norm(same_NN))
    gram_NN, same_NN = gram_NN - gram_NN.mean(), same_NN - same_NN.mean()
    return (gram_NN * same_NN).sum() / math.sqrt((gram_NN**2).sum() * (same_NN**2).sum())


def leave_one_out(name, features_ND, labels_N):
    n = len(labels_N)
    return np.array([by_matrices(name, np.delete(features_ND, i, axis=0), np.delete(labels_N, i)) for i in range(n)])


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(name):
    assert compute(name, GOLDEN_FEATURES, GOLDEN_LABELS).value == pytest.approx(GOLDEN[name], abs=5e-11)


@st.composite
def feature_sets(draw):
    classes, dimensions = draw(st.integers(2, 4)), draw(st.integers(1, 12))
    counts = draw(st.lists(st.integers(1, 5), min_size=classes, max_size=classes).filter(lambda c: sum(c) >= 5))
    seed, offset = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.0, 1.0, 10.0]))
    random = np.random.default_rng(seed)
    labels_N = random.permutation(np.repeat(np.arange(classes), counts))
    return random.normal(size=(len(labels_N), dimensions)) + labels_N[:, None] * 0.5 + offset, labels_N


@pytest.mark.parametrize("name", GOLDEN)
@given(data=feature_sets())
@settings(deadline=None, max_examples=60)
def test_equals_the_matrices(name, data):
    features_ND, labels_N = data
    result = compute(name, features_ND, labels_N)
    if "no_variation" in result.warnings:  # rows of one dimension and sign all point the same way
        assert name == "lfc_cosine"
        assert len(np.unique(np.sign(features_ND[:, 0]))) == 1
        return
    assert result.value == pytest.approx(by_matrices(name, features_ND, labels_N), rel=1e-8, abs=1e-10)
    if min(np.bincount(labels_N)) > 1 and result.influence_N is not None:
        n, without_N = len(labels_N), leave_one_out(name, features_ND, labels_N)
        expected_N = (n - 1) / n * (without_N.mean() - without_N)
        assert result.influence_N == pytest.approx(expected_N, rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("name", GOLDEN)
@given(
    features_ND=hnp.arrays(np.int8, (9, 3), elements=st.integers(-2, 2)),
    labels_N=hnp.arrays(np.int8, 9, elements=st.integers(0, 3)).filter(lambda labels: len(set(labels)) > 1),
)
@settings(deadline=None, max_examples=60)
def test_stays_a_correlation_on_degenerate_input(name, features_ND, labels_N):
    result = compute(name, features_ND, labels_N)
    assert -1 <= result.value <= 1
    assert result.stderr is None or result.stderr >= 0


@pytest.mark.parametrize("name", GOLDEN)
def test_influences_are_leave_one_out_values_that_sum_to_zero(name):
    random = np.random.default_rng(1)
    labels_N = np.arange(40) % 4
    features_ND = random.normal(size=(40, 5)) + random.normal(size=(4, 5))[labels_N]
    features_ND[3] = 0
    result = compute(name, features_ND, labels_N)
    without_N = leave_one_out(name, features_ND, labels_N)
    assert result.influence_N == pytest.approx((without_N.mean() - without_N) * 39 / 40, abs=1e-12)
    assert result.influence_N.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", GOLDEN)
def test_influences_are_the_effect_of_a_weight(name):
    random = np.random.default_rng(2)
    labels_N = np.arange(600) % 3
    features_ND = random.normal(size=(600, 5)) + random.normal(size=(3, 5))[labels_N]
    result = compute(name, features_ND, labels_N)
    for image in range(10):
        twice = [*range(600), image]
        change = by_matrices(name, features_ND[twice], labels_N[twice]) - result.value
        assert change == pytest.approx(result.influence_N[image], abs=0.05 * result.influence_N.std())


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("shape", [(24, 3), (18, 40)])
def test_null_value_is_the_mean_over_shuffled_labels(name, shape):
    random = np.random.default_rng(4)
    labels_N = np.repeat([0, 1, 2], [shape[0] - 9, 6, 3])
    features_ND = random.normal(size=shape) + 0.3
    panel = Panel(features_ND, labels_N)
    nulls = [measure(name, panel.with_labels(random.permutation(labels_N))).value for _ in range(1000)]
    stderr = np.std(nulls) / math.sqrt(len(nulls))
    assert measure(name, panel).null_value == pytest.approx(np.mean(nulls), abs=4 * stderr)
    assert measure(name, panel).null_value == pytest.approx(0, abs=1e-12) or name != "lfc_offdiagonal"


def test_cosine_reads_directions_alone():
    random = np.random.default_rng(5)
    features_ND, labels_N = random.normal(size=(30, 6)) + 0.4, np.arange(30) % 3
    lengths_N = 10.0 ** random.uniform(-150, 150, size=30)
    expected = compute("lfc_cosine", features_ND, labels_N).value
    assert compute("lfc_cosine", features_ND * lengths_N[:, None], labels_N).value == pytest.approx(expected, rel=1e-10)
    one_direction = compute("lfc_cosine", np.outer(np.arange(1, 31), [1, 2, 3]), labels_N)
    assert (one_direction.value, one_direction.warnings) == (0.0, ("no_variation",))


@pytest.mark.parametrize("name", ["lfc", "lfc_offdiagonal", "lfc_centered", "lfc_cosine"])
def test_perfect_features_score_one(name):
    labels_N = np.repeat(np.arange(4), 5)
    assert compute(name, np.eye(4)[labels_N], labels_N).value == pytest.approx(1.0, abs=1e-12)


def test_a_large_common_offset_costs_no_precision():
    random = np.random.default_rng(0)
    labels_N = np.repeat(np.arange(3), 10)
    features_ND = random.normal(size=(30, 8)) + np.eye(8)[labels_N]
    for name in GOLDEN:
        shifted_ND = features_ND + 2.0**20
        exact_ND = shifted_ND - 2.0**20  # what is left of the features after rounding
        if name == "lfc_centered":
            assert compute(name, shifted_ND, labels_N).value == pytest.approx(
                compute(name, exact_ND, labels_N).value, rel=1e-9
            )
        assert compute(name, shifted_ND, labels_N).stderr is not None


def test_offset_lowers_the_papers_score_and_not_the_centred_one():
    random = np.random.default_rng(0)
    labels_N = np.repeat(np.arange(5), 20)
    features_ND = random.normal(size=(100, 20)) * 0.5 + random.normal(size=(5, 20))[labels_N]
    plain, shifted = ({n: compute(n, features_ND + c, labels_N).value for n in GOLDEN} for c in (0, 10))
    assert shifted["lfc"] < plain["lfc"] / 3
    assert shifted["lfc_centered"] == pytest.approx(plain["lfc_centered"], rel=1e-9)


def test_noise_scores_by_width_unless_the_diagonal_is_left_out():
    values = {}
    for width in (128, 2048):
        random = np.random.default_rng(width)
        labels_N = np.arange(500) % 10
        features_ND = random.normal(size=(500, width))
        values[width] = {name: compute(name, features_ND, labels_N).value for name in GOLDEN}
    assert values[128]["lfc"] == pytest.approx(0.061, abs=0.01)
    assert values[2048]["lfc"] == pytest.approx(0.119, abs=0.01)
    assert abs(values[2048]["lfc_offdiagonal"]) < 0.01


def test_stderr_is_the_spread_over_fresh_images():
    values, stderrs = [], []
    random = np.random.default_rng(3)
    centres = random.normal(size=(4, 6)) * 0.5
    for _ in range(100):
        labels_N = np.arange(150) % 4
        result = compute("lfc", random.normal(size=(150, 6)) + centres[labels_N], labels_N)
        values.append(result.value)
        stderrs.append(result.stderr)
    assert np.mean(stderrs) == pytest.approx(np.std(values), rel=0.15)
