"""k-NN against the rule spelled out in loops.

Legend: N images, D feature dimensions.
"""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from app.scoring import compute
from app.scoring.features.knn import _BLOCK_ENTRIES

TIE = 1e-10


def by_loops(features_ND, labels_N):
    """Return whether each image is classified right, by the rule in words."""
    x_ND = np.asarray(features_ND, dtype=float)
    x_ND = x_ND - x_ND.mean(axis=0)
    x_ND[np.abs(x_ND) < 1e-12] = 0.0
    mean_square = (x_ND**2).sum(axis=1).mean()
    counts = np.bincount(labels_N)
    k = int(min(5, max(1, np.median(counts[counts > 0]) - 1)))
    right = []
    for i, x in enumerate(x_ND):
        others = []
        for j, z in enumerate(x_ND):
            if j != i and ((x - z) ** 2).sum() > 1e-8 * mean_square:
                length = np.sqrt((x @ x) * (z @ z))
                others.append((x @ z / length if length > 0 else 0.0, labels_N[j]))
        others.sort(key=lambda other: -other[0])
        votes, similarity = defaultdict(float), defaultdict(float)
        if others:
            last = others[min(k, len(others)) - 1][0]
            nearer = [o for o in others if o[0] > last + TIE]
            tied = [o for o in others if abs(o[0] - last) <= TIE]
            for group, weight in ((nearer, 1.0), (tied, (min(k, len(others)) - len(nearer)) / len(tied))):
                for value, label in group:
                    votes[label] += weight
                    similarity[label] += weight * value
        leaders = [c for c in votes if votes[c] >= max(votes.values()) - TIE]
        winners = [c for c in leaders if similarity[c] >= max(similarity[c] for c in leaders) - TIE]
        right.append(winners == [labels_N[i]] and counts[labels_N[i]] > 1)
    return np.array(right)


@given(seed=st.integers(0, 10**6), images=st.integers(4, 40), dimensions=st.integers(1, 8), classes=st.integers(2, 5))
@settings(deadline=None, max_examples=60)
def test_equals_the_loops(seed, images, dimensions, classes):
    random = np.random.default_rng(seed)
    labels_N = np.concatenate([[0, 0, 1], random.integers(0, classes, size=images)])
    features_ND = random.normal(size=(len(labels_N), dimensions)) + labels_N[:, None]
    result = compute("knn", features_ND, labels_N)
    expected = by_loops(features_ND, np.unique(labels_N, return_inverse=True)[1])
    assert result.per_image_N.tolist() == expected.tolist()


@given(
    features_ND=hnp.arrays(np.int8, (14, 2), elements=st.integers(-2, 2)),
    labels_N=hnp.arrays(np.int8, 11, elements=st.integers(0, 3)),
    order=st.permutations(range(14)),
)
@settings(deadline=None, max_examples=60)
def test_ties_and_duplicates_do_not_depend_on_order(features_ND, labels_N, order):
    labels_N = np.concatenate([[0, 0, 1], labels_N])
    right = compute("knn", features_ND, labels_N).per_image_N
    shuffled = compute("knn", features_ND[order], labels_N[order]).per_image_N
    renamed = compute("knn", features_ND, 7 - labels_N).per_image_N
    assert shuffled.tolist() == right[order].tolist()
    assert renamed.tolist() == right.tolist()


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_duplicates_do_not_give_the_answer_away(noise):
    random = np.random.default_rng(0)
    features_ND, labels_N = random.normal(size=(100, 20)), random.integers(0, 4, size=100)
    once = compute("knn", features_ND, labels_N)
    doubled_ND = np.vstack([features_ND, features_ND + noise * random.normal(size=(100, 20))])
    twice = compute("knn", doubled_ND, np.tile(labels_N, 2))
    assert twice.value < 0.45
    assert "duplicate_features" in twice.warnings
    assert "duplicate_features" not in once.warnings


def test_data_larger_than_a_block():
    random = np.random.default_rng(0)
    features_ND, labels_N = random.normal(size=(3000, 3)), np.arange(3000) % 3
    assert len(features_ND) ** 2 > _BLOCK_ENTRIES
    order = random.permutation(3000)
    right = compute("knn", features_ND, labels_N).per_image_N
    assert compute("knn", features_ND[order], labels_N[order]).per_image_N.tolist() == right[order].tolist()


def test_two_images_a_class_use_one_neighbour():
    features_ND = np.array([[10, 0.0], [10, 1], [0, 10], [1, 10], [-10, -9], [-9, -10]])
    assert compute("knn", features_ND, [0, 0, 1, 1, 2, 2]).value == 1.0


def test_perfect_score_keeps_a_standard_error():
    features_ND, labels_N = np.repeat(np.eye(2), 10, axis=0), np.repeat([0, 1], 10)
    noise_ND = np.random.default_rng(0).normal(size=(20, 2)) * 0.1
    result = compute("knn", features_ND + noise_ND, labels_N)
    assert result.value == 1.0
    assert 0.01 < result.stderr < 0.06
