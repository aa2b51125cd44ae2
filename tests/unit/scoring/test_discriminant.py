"""Linear discriminant analysis against scikit-learn refitted without each image.

Legend: N images, D feature dimensions, C classes.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from app.domain.errors import EvaluationFailed
from app.scoring import Panel, compute
from app.scoring.features.discriminant import ledoit_wolf


class FixedShrinkage:
    """A covariance shrunk to a given variance, with a given intensity, in scikit-learn's interface."""

    def __init__(self, intensity, variance):
        self.intensity, self.variance = intensity, variance

    def fit(self, features_ND):
        covariance_DD = np.atleast_2d(np.cov(features_ND.T, bias=True))
        self.covariance_ = (1 - self.intensity) * covariance_DD
        self.covariance_ += self.intensity * self.variance * np.eye(len(covariance_DD))
        return self


def noisy(seed, counts, dimensions, signal=0.7):
    random = np.random.default_rng(seed)
    labels_N = random.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = random.normal(size=(len(counts), dimensions)) * signal
    return random.normal(size=(len(labels_N), dimensions)) * random.uniform(0.2, 2, size=dimensions) + centres[
        labels_N
    ] + 2, labels_N


def refitted(features_ND, labels_N, shrinkage):
    """Return the log posteriors of every image under scikit-learn's model of the others."""
    log_posterior_NC = np.empty((len(labels_N), labels_N.max() + 1))
    for i in range(len(labels_N)):
        others = np.arange(len(labels_N)) != i
        model = LinearDiscriminantAnalysis(
            solver="lsqr", covariance_estimator=FixedShrinkage(shrinkage.intensity, shrinkage.variance)
        )
        model.fit(features_ND[others], labels_N[others])
        # Of its log-probabilities those below rounding are cut off when there are two classes.
        logits = model.decision_function(features_ND[i : i + 1])
        log_posterior_NC[i] = log_softmax(np.append(0.0, logits) if logits.ndim == 1 else logits[0])
    return log_posterior_NC


@given(
    seed=st.integers(0, 10**6),
    counts=st.lists(st.integers(2, 6), min_size=2, max_size=4),
    dimensions=st.sampled_from([1, 2, 5, 30]),
)
@settings(deadline=None, max_examples=25)
def test_equals_refits(seed, counts, dimensions):
    features_ND, labels_N = noisy(seed, counts, dimensions)
    panel = Panel(features_ND, labels_N)
    shrinkage = ledoit_wolf(panel)
    if shrinkage.intensity > 1 - 1e-6:  # the inverse's scale in scikit-learn then is lost to rounding
        return
    expected_NC = refitted(panel.features_ND, labels_N, shrinkage)
    result = compute("lda", features_ND, labels_N)
    own_N = expected_NC[np.arange(len(labels_N)), labels_N]
    assert result.log_likelihood_N == pytest.approx(own_N, rel=1e-6, abs=1e-8)
    assert result.value == np.mean(expected_NC.argmax(axis=1) == labels_N)
    assert compute("lda_likelihood", features_ND, labels_N).value == pytest.approx(own_N.mean(), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("shape", [(40, 5), (20, 50)])
def test_intensity_is_ledoit_and_wolfs(shape):
    features_ND, labels_N = noisy(4, [shape[0] // 2] * 2, shape[1])
    means_CD = np.array([features_ND[labels_N == c].mean(axis=0) for c in (0, 1)])
    within_ND = features_ND - means_CD[labels_N]
    panel = Panel(features_ND, labels_N)
    shrinkage = ledoit_wolf(panel)
    assert shrinkage.intensity == pytest.approx(ledoit_wolf_shrinkage(within_ND, assume_centered=True), rel=1e-9)
    assert shrinkage.variance * panel.scale**2 == pytest.approx((within_ND**2).mean(), rel=1e-10)


def test_a_singleton_class_competes_and_is_not_judged():
    features_ND, labels_N = noisy(1, [6, 6, 1], 4)
    result = compute("lda", features_ND, labels_N)
    assert result.held_out_N.tolist() == (labels_N != 2).tolist()
    assert "singleton_class" in result.warnings
    assert result.log_likelihood_N[labels_N == 2].tolist() == [0.0]


def test_classes_without_spread_are_told_apart():
    labels_N = np.repeat(np.arange(3), 4)
    assert compute("lda", np.eye(3)[labels_N], labels_N).value == 1.0
    assert compute("lda_likelihood", np.eye(3)[labels_N], labels_N).value == pytest.approx(0.0, abs=1e-6)


def test_constant_features_are_worth_the_class_shares():
    labels_N = np.array([0, 0, 0, 0, 1, 1])
    result = compute("lda_likelihood", np.ones((6, 3)), labels_N)
    assert result.value == pytest.approx((4 * np.log(3 / 5) + 2 * np.log(1 / 5)) / 6)
    assert result.warnings == ("constant_features",)


def test_shuffled_labels_are_worth_no_more_than_chance():
    features_ND, labels_N = noisy(5, [20, 20, 20], 100)
    random = np.random.default_rng(0)
    values = [compute("lda", features_ND, random.permutation(labels_N)).value for _ in range(100)]
    assert np.mean(values) == pytest.approx(1 / 3, abs=0.04)


def test_only_singletons_are_refused():
    with pytest.raises(EvaluationFailed) as caught:
        compute("lda_likelihood", np.eye(4), [0, 1, 2, 3])
    assert caught.value.code == "no_held_out_images"
