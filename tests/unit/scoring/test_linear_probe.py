"""The linear probe against scikit-learn, fold by fold and penalty by penalty.

Legend: N images, D feature dimensions.
"""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from app.scoring import compute
from app.scoring.fitting.folds import NEVER_HELD_OUT, stratified_folds
from app.scoring.fitting.lbfgs import minimize
from app.scoring.fitting.softmax_regression import SoftmaxPath


def noisy(seed, images, dimensions, classes, spread=1.0):
    random = np.random.default_rng(seed)
    labels_N = random.permutation(np.arange(images) % classes)
    centres = random.normal(size=(classes, dimensions)) * spread
    return random.normal(size=(images, dimensions)) + centres[labels_N], labels_N


def log_probabilities(train_ND, train_labels_N, test_ND, classes, penalty):
    """Return scikit-learn's log-probabilities, columns for all classes."""
    strength = 1 / (penalty * len(train_ND))
    if classes == 2:  # its binary model has one weight vector w, ours two, +-w/2: half the penalty gives the same model
        strength *= 2
    model = LogisticRegression(C=strength, tol=1e-9, max_iter=1000, solver="newton-cholesky")
    model.fit(train_ND, train_labels_N)
    logits = model.decision_function(test_ND)
    if classes == 2:
        logits = np.stack([np.zeros(len(logits)), logits], axis=1)
    found = np.full((len(test_ND), classes), -np.inf)
    found[:, model.classes_] = log_softmax(logits, axis=1)
    return found


def by_scikit_learn(features_ND, labels_N):
    """Return (right, log-likelihood) of every image: 5 folds, the penalty of a fold chosen on the other folds."""
    x_ND = features_ND - features_ND.mean(axis=0)
    x_ND = x_ND / np.sqrt((x_ND**2).sum(axis=1).mean())
    classes = labels_N.max() + 1
    unit = np.linalg.norm(x_ND, 2) ** 2 / len(x_ND) / classes
    folds_N = stratified_folds(labels_N, 5)
    held_out_N = folds_N >= 0
    likelihoods, rights, best, waited = [], [], -np.inf, 0
    for power in (1, 0, -1, -2, -3, -4, -5, -6):
        likelihood_N, right_N = np.zeros(len(labels_N)), np.zeros(len(labels_N), dtype=bool)
        for fold in np.unique(folds_N[held_out_N]):
            test = folds_N == fold
            found = log_probabilities(x_ND[~test], labels_N[~test], x_ND[test], classes, unit * 10.0**power)
            likelihood_N[test] = found[np.arange(test.sum()), labels_N[test]]
            right_N[test] = found.argmax(axis=1) == labels_N[test]
        likelihoods.append(likelihood_N)
        rights.append(right_N)
        mean = likelihood_N[held_out_N].mean()
        waited = 0 if mean > best + 0.002 else waited + 1
        best = max(best, mean)
        if waited == 2 or best > -0.002:
            break
    right_N, likelihood_N = np.zeros_like(rights[0]), np.zeros_like(likelihoods[0])
    for fold in np.unique(folds_N[held_out_N]):
        others = held_out_N & (folds_N != fold)
        chosen = np.argmax([likelihood[others].sum() for likelihood in likelihoods])
        right_N[folds_N == fold] = rights[chosen][folds_N == fold]
        likelihood_N[folds_N == fold] = likelihoods[chosen][folds_N == fold]
    return right_N, likelihood_N


@pytest.mark.parametrize(
    ("images", "dimensions", "classes", "spread"), [(60, 5, 3, 0.7), (40, 3, 2, 0.5), (30, 50, 3, 0.3), (50, 6, 5, 2.0)]
)
def test_equals_scikit_learn(images, dimensions, classes, spread):
    features_ND, labels_N = noisy(images, images, dimensions, classes, spread)
    expected_right_N, expected_likelihood_N = by_scikit_learn(features_ND, labels_N)
    result = compute("linear_probe", features_ND, labels_N)
    assert result.per_image_N.tolist() == expected_right_N.tolist()
    assert result.value == expected_right_N.mean()
    assert result.log_likelihood_N == pytest.approx(expected_likelihood_N, abs=1e-2)


def test_singletons_train_and_are_not_judged():
    features_ND, labels_N = noisy(0, 40, 4, 3)
    features_ND = np.vstack([features_ND, [[9.0, 9, 9, 9]]])
    labels_N = np.append(labels_N, 3)
    expected_right_N, expected_likelihood_N = by_scikit_learn(features_ND, labels_N)
    result = compute("linear_probe", features_ND, labels_N)
    assert result.warnings == ("singleton_class",)
    assert result.per_image_N.tolist() == expected_right_N.tolist()
    assert result.log_likelihood_N == pytest.approx(expected_likelihood_N, abs=5e-3)
    assert not result.held_out_N[-1]


@given(seed=st.integers(0, 10**6), classes=st.integers(2, 4), penalty=st.sampled_from([1.0, 1e-2, 1e-4]))
@settings(deadline=None, max_examples=15)
def test_solver_equals_scikit_learn(seed, classes, penalty):
    features_ND, labels_N = noisy(seed, 36, 6, classes)
    features_ND -= features_ND.mean(axis=0)
    training_FN = np.arange(36) % 3 != np.arange(3)[:, None]
    path = SoftmaxPath(features_ND, labels_N, classes, training_FN)
    # Hardly penalised, the minimum is so flat that two solvers who both come near it are not at the same place.
    is_flat = penalty < 1e-2
    assert path.fit(penalty, tolerance=1e-14) or is_flat
    for fold, training_N in enumerate(training_FN):
        expected = log_probabilities(features_ND[training_N], labels_N[training_N], features_ND, classes, penalty)
        found = path.log_probabilities(fold, np.arange(36))
        assert np.exp(found) == pytest.approx(np.exp(expected), abs=1e-3 if is_flat else 1e-5)


def test_a_warm_start_leads_to_the_same_minimum():
    features_ND, labels_N = noisy(1, 50, 8, 3)
    training_FN = np.ones((1, 50), dtype=bool)
    warm, cold = (SoftmaxPath(features_ND, labels_N, 3, training_FN) for _ in range(2))
    for penalty in (1.0, 0.1, 0.01):
        warm.fit(penalty, tolerance=1e-14)
    cold.fit(0.01, tolerance=1e-14)
    images = np.arange(50)
    assert warm.log_probabilities(0, images) == pytest.approx(cold.log_probabilities(0, images), abs=1e-5)


@pytest.mark.parametrize("images_at_once", [1, 7, 59])
def test_images_in_blocks_give_the_same_models(images_at_once):
    features_ND, labels_N = noisy(3, 60, 8, 3)
    training_FN = np.arange(60) % 4 != np.arange(4)[:, None]
    held = images_at_once * 4 * 3
    whole, blocks = (SoftmaxPath(features_ND, labels_N, 3, training_FN, logits_held=many) for many in (10**6, held))
    for penalty in (1.0, 0.01):
        assert whole.fit(penalty, tolerance=1e-14)
        assert blocks.fit(penalty, tolerance=1e-14)
    for fold in range(4):
        expected = whole.log_probabilities(fold, np.arange(60))
        assert blocks.log_probabilities(fold, np.arange(60)) == pytest.approx(expected, abs=1e-6)


def test_minimiser_reaches_a_known_minimum_and_says_when_it_does_not():
    scale = np.logspace(-2, 2, 20)
    target = np.linspace(-1, 1, 20)

    def quadratic(point):
        return float((scale * (point - target) ** 2).sum()), 2 * scale * (point - target)

    point, reached = minimize(quadratic, np.zeros(20), tolerance=1e-16)
    assert reached
    assert point == pytest.approx(target, abs=1e-5)
    assert not minimize(quadratic, np.zeros(20), tolerance=1e-16, max_iterations=3)[1]


@given(labels=st.lists(st.integers(0, 6), min_size=3, max_size=60))
@settings(deadline=None)
def test_folds_are_balanced_and_keep_every_class_in_training(labels):
    labels_N = np.array(labels)
    folds_N = stratified_folds(labels_N, 5)
    sizes = np.bincount(folds_N[folds_N >= 0], minlength=5)
    assert sizes.max() - sizes.min() <= 1
    for label in np.unique(labels_N):
        own = folds_N[labels_N == label]
        if len(own) == 1:
            assert own == [NEVER_HELD_OUT]
        else:
            within = np.bincount(own, minlength=5)
            assert within.max() - within.min() <= 1
            assert within.max() < len(own)


def test_folds_know_neither_class_names_nor_how_classes_are_interleaved():
    labels_N = np.array([2, 0, 2, 1, 0, 1, 1, 2, 0, 0, 2, 1])
    folds_N = stratified_folds(labels_N, 5)
    assert stratified_folds(np.array([7, 9, 3])[labels_N], 5).tolist() == folds_N.tolist()
    by_class = np.concatenate([np.flatnonzero(labels_N == label) for label in (2, 0, 1)])
    assert stratified_folds(labels_N[by_class], 5).tolist() == folds_N[by_class].tolist()


def test_permuted_labels_are_guessed_at_the_rate_of_chance():
    random = np.random.default_rng(0)
    values = [
        compute("linear_probe", random.normal(size=(60, 30)), random.permutation(np.arange(60) % 3)).value
        for _ in range(60)
    ]
    assert np.mean(values) == pytest.approx(1 / 3, abs=0.03)


def test_penalty_is_chosen_well():
    """Among noise dimensions the chosen penalty must do about as well as the best one in hindsight."""
    features_ND, labels_N = noisy(3, 90, 10, 3, spread=0.6)
    features_ND = np.hstack([features_ND, np.random.default_rng(0).normal(size=(90, 200)) * 0.3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = compute("linear_probe", features_ND, labels_N)
    assert result.value > 0.6
    assert result.log_likelihood_N.mean() > -np.log(3)
