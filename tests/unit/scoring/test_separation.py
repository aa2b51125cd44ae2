"""Separation of classes against loops over images, and finite differences.

Legend: N images, D feature dimensions.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier

from app.scoring import Panel, compute, measure


def fisher_ratio(x_ND, labels_N, weights_N):
    mean_D = weights_N @ x_ND / weights_N.sum()
    between = within = 0.0
    for label in set(labels_N.tolist()):
        own_N = np.where(labels_N == label, weights_N, 0)
        class_mean_D = own_N @ x_ND / own_N.sum()
        between += own_N.sum() * ((class_mean_D - mean_D) ** 2).sum()
        within += own_N @ ((x_ND - class_mean_D) ** 2).sum(axis=1)
    return between / within


def silhouette(x_ND, labels_N, weights_N):
    """Return the weighted mean; an image's mean distance to its class leaves itself out, whatever its weight."""
    distance_NN = np.linalg.norm(x_ND[:, None] - x_ND, axis=2)
    values = []
    for image, label in enumerate(labels_N):
        means = {}
        for other in set(labels_N.tolist()):
            others_N = np.where(labels_N == other, weights_N, 0)
            others_N[image] = 0
            means[other] = others_N @ distance_NN[image] / others_N.sum() if others_N.sum() > 0 else None
        a = means.pop(label)
        b = min(means.values())
        values.append(0.0 if a is None else (b - a) / max(a, b))
    return weights_N @ np.array(values) / weights_N.sum()


@st.composite
def feature_sets(draw):
    counts = draw(st.lists(st.integers(1, 7), min_size=2, max_size=4).filter(lambda c: max(c) > 1 and sum(c) > 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels_N = random.permutation(np.repeat(np.arange(len(counts)), counts))
    dimensions = draw(st.integers(1, 12))
    spread = draw(st.sampled_from([0.0, 0.5, 3.0]))
    return random.normal(size=(len(labels_N), dimensions)) + spread * labels_N[:, None], labels_N


@pytest.mark.parametrize("reference", [fisher_ratio, silhouette])
@given(data=feature_sets())
@settings(deadline=None, max_examples=40)
def test_equals_the_loops(reference, data):
    features_ND, labels_N = data
    expected = reference(features_ND, labels_N, np.ones(len(labels_N)))
    assert compute(reference.__name__, features_ND, labels_N).value == pytest.approx(expected, rel=1e-8, abs=1e-10)


@given(data=feature_sets())
@settings(deadline=None, max_examples=40)
def test_separation_index_is_the_nearest_neighbour_rule(data):
    features_ND, labels_N = data
    result = compute("separation_index", features_ND, labels_N)
    for image in np.flatnonzero(result.held_out_N):
        kept = np.arange(len(labels_N)) != image
        model = KNeighborsClassifier(n_neighbors=1, algorithm="brute").fit(features_ND[kept], labels_N[kept])
        assert (model.predict(features_ND[[image]])[0] == labels_N[image]) == result.per_image_N[image]
    assert result.held_out_N.tolist() == (np.bincount(labels_N)[labels_N] > 1).tolist()


@pytest.mark.parametrize("reference", [fisher_ratio, silhouette])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_influences_are_derivatives_by_weights(reference, spread):
    random = np.random.default_rng(1)
    labels_N = random.permutation(np.repeat([0, 1, 2, 3], [8, 6, 4, 1]))
    features_ND = random.normal(size=(19, 3)) + spread * random.normal(size=(4, 3))[labels_N]
    result = compute(reference.__name__, features_ND, labels_N)
    for image in range(19):
        up_N, down_N = np.ones(19), np.ones(19)
        up_N[image], down_N[image] = 1 + 1e-5, 1 - 1e-5
        slope = (reference(features_ND, labels_N, up_N) - reference(features_ND, labels_N, down_N)) / 2e-5
        # Among the others of its class, n_c - 1 images, the weights of the others count alone.
        assert result.influence_N[image] == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_silhouette_is_that_of_scikit_learn():
    random = np.random.default_rng(2)
    labels_N = np.arange(3000) % 7
    features_ND = random.normal(size=(3000, 4)) + random.normal(size=(7, 4))[labels_N]
    assert compute("silhouette", features_ND, labels_N).value == pytest.approx(
        silhouette_score(features_ND, labels_N), rel=1e-9
    )


def test_separation_index_of_ties_and_duplicates():
    # Image 0 has two nearest images of its own class and one of the other; image 4's two are of different classes.
    square = compute(
        "separation_index", [[0, 0], [1, 0], [0, 1], [0, -1], [9, 9], [9, 10], [10, 9]], [0, 0, 0, 1, 1, 1, 0]
    )
    assert square.per_image_N.tolist() == [True, True, True, False, False, True, False]
    assert square.null_value is None  # closed form only when every image has one nearest image
    duplicates = compute("separation_index", [[0.0], [0.0], [1.0], [5.0], [6.0], [6.0]], [0, 0, 1, 0, 1, 1])
    assert duplicates.per_image_N.tolist() == [False, False, False, False, False, False]
    assert duplicates.warnings == ("duplicate_features",)


def test_separation_index_influences_reweight_the_mean():
    random = np.random.default_rng(3)
    labels_N = np.array([0] * 9 + [1] * 8 + [2])
    result = compute("separation_index", random.normal(size=(18, 2)) + labels_N[:, None], labels_N)
    assert result.influence_N.sum() == pytest.approx(0.0, abs=1e-15)
    assert result.influence_N[17] == 0.0
    assert result.influence_N[:17] == pytest.approx((result.per_image_N[:17] - result.value) / 17, abs=1e-15)
    assert result.warnings == ("singleton_class",)


@pytest.mark.parametrize(("name", "relative"), [("separation_index", 0.0), ("fisher_ratio", 0.02)])
def test_null_value_is_the_mean_over_shuffled_labels(name, relative):
    random = np.random.default_rng(4)
    labels_N = np.repeat([0, 1, 2, 3], [20, 12, 7, 1])
    panel = Panel(random.normal(size=(40, 6)), labels_N)
    nulls = [measure(name, panel.with_labels(random.permutation(labels_N))).value for _ in range(1000)]
    expected = measure(name, panel).null_value
    assert np.mean(nulls) == pytest.approx(expected, abs=4 * np.std(nulls) / np.sqrt(1000) + relative * expected)


def test_classes_of_one_point_are_an_exact_fit():
    labels_N = np.arange(12) % 3
    result = compute("fisher_ratio", np.eye(3)[labels_N], labels_N)
    assert (result.value, result.warnings) == (pytest.approx(1e12), ("exact_fit",))
    assert compute("silhouette", np.eye(3)[labels_N], labels_N).value == pytest.approx(1.0)
