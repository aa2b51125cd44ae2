"""Contributions of classes to a correlation, and confusions of a probe.

Legend: N images, D feature dimensions, C classes.
"""

import numpy as np
import pytest

from app.domain.errors import BadRequest
from app.scoring import Panel, measure
from app.scoring.confusions import Confusion, confusions
from app.scoring.contributions import CORRELATIONS, contributions


def classes(seed=0, images=90, dimensions=9, shares=(0.5, 0.3, 0.1, 0.1)):
    random = np.random.default_rng(seed)
    labels_N = random.choice(4, size=images, p=shares)
    centres_CD = random.normal(size=(4, dimensions))
    centres_CD[3] = centres_CD[2]  # these two cannot be told apart
    return random.normal(size=(images, dimensions)) * 0.5 + centres_CD[labels_N] + 0.7, labels_N


def by_matrices(name, features_ND, labels_N):
    """Return the shares from N x N matrices."""
    if name == "lfc_cosine":
        features_ND = features_ND / np.linalg.norm(features_ND, axis=1, keepdims=True)
    gram_NN, same_NN = features_ND @ features_ND.T, (labels_N[:, None] == labels_N).astype(float)
    if name == "lfc_centered":
        centring_NN = np.eye(len(labels_N)) - 1 / len(labels_N)
        gram_NN, same_NN = centring_NN @ gram_NN @ centring_NN, centring_NN @ same_NN @ centring_NN
        mask_NN = np.ones_like(gram_NN)
    else:
        mask_NN = 1 - np.eye(len(labels_N)) if name == "lfc_offdiagonal" else np.ones_like(gram_NN)
        gram_NN = (gram_NN - (gram_NN * mask_NN).sum() / mask_NN.sum()) * mask_NN
        same_NN = (same_NN - (same_NN * mask_NN).sum() / mask_NN.sum()) * mask_NN
    shares_NN = gram_NN * same_NN / (np.linalg.norm(gram_NN) * np.linalg.norm(same_NN))
    one_hot_NC = np.eye(4)[labels_N]
    return one_hot_NC.T @ shares_NN @ one_hot_NC


@pytest.mark.parametrize("name", CORRELATIONS)
@pytest.mark.parametrize("dimensions", [9, 200])
def test_contributions_are_those_of_the_matrices_and_add_up(name, dimensions):
    features_ND, labels_N = classes(dimensions=dimensions)
    split = contributions(name, Panel(features_ND, labels_N))
    assert split.pairs_CC == pytest.approx(by_matrices(name, features_ND, labels_N), abs=1e-12)
    value = measure(name, Panel(features_ND, labels_N)).value
    assert split.pairs_CC.sum() == pytest.approx(value, abs=1e-12)
    assert split.by_class.sum() == pytest.approx(value, abs=1e-12)


def test_classes_that_look_alike_take_away_from_the_score():
    pairs_CC = contributions("lfc_centered", Panel(*classes(images=400, shares=(0.25,) * 4))).pairs_CC
    np.fill_diagonal(pairs_CC, np.inf)
    assert np.unravel_index(pairs_CC.argmin(), (4, 4)) in {(2, 3), (3, 2)}
    assert pairs_CC.min() < 0


def test_constant_features_contribute_nothing():
    assert not contributions("lfc", Panel(np.ones((6, 3)), [0, 0, 1, 1, 2, 2])).pairs_CC.any()


def test_only_correlations_are_sums_over_pairs():
    with pytest.raises(BadRequest) as caught:
        contributions("knn", Panel(*classes()))
    assert caught.value.code == "unknown_score"
    assert "lfc_centered" in caught.value.hint


def test_confusions_are_counted_by_pair():
    labels_N = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    predicted_N = np.array([0, 1, 1, 1, 0, -1, 2, 1])
    held_out_N = np.array([True] * 7 + [False])
    found = confusions(labels_N, predicted_N, held_out_N, 3)
    assert found.held_out == (3, 3, 1)
    assert found.right == (1, 1, 1)
    assert found.pairs == (Confusion(label=0, predicted=1, images=2), Confusion(label=1, predicted=0, images=1))


def test_the_probe_says_what_it_takes_for_what():
    features_ND, labels_N = classes(images=300)
    result = measure("linear_probe", Panel(features_ND, labels_N))
    assert np.array_equal(result.predicted_N == labels_N, result.per_image_N)
    found = confusions(labels_N, result.predicted_N, result.held_out_N, 4)
    assert sum(found.right) / sum(found.held_out) == pytest.approx(result.value)
    assert {found.pairs[0].label, found.pairs[0].predicted} == {2, 3}
