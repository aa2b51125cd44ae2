"""Scores of the source classifier against loops written from the papers' formulas.

Legend: N images, C classes, Z source classes.
"""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma, gammaln
from sklearn.mixture import GaussianMixture

from app.domain.resampling import stratified_stderr
from app.scoring import Panel, compute, measure, synthetic
from app.scoring.heads.nleep import COMPONENTS_PER_CLASS, IMAGES_PER_COMPONENT

FEATURES = [[1, 0, 2], [2, 1, 0], [0, 1, 1], [1, 1, 3], [3, 0, 1], [2, 2, 0]]
LABELS = [0, 0, 1, 1, 2, 2]
PROBABILITIES = [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.3, 0.1, 0.6]]


def measured(name, labels_N, probabilities_NZ):
    features_ND = np.random.default_rng(0).normal(size=(len(labels_N), 2))
    return compute(name, features_ND, labels_N, source_probabilities=probabilities_NZ)


def leep_by_loops(labels_N, p_NZ, weights_N=None):
    weights_N = np.ones(len(labels_N)) if weights_N is None else weights_N
    joint = {}
    for y, p_Z, w in zip(labels_N, p_NZ, weights_N, strict=True):
        for z, p in enumerate(p_Z):
            joint[y, z] = joint.get((y, z), 0.0) + w * p
    total = 0.0
    for y, p_Z, w in zip(labels_N, p_NZ, weights_N, strict=True):
        said = 0.0
        for z, p in enumerate(p_Z):
            mass = sum(value for (_, other), value in joint.items() if other == z)
            said += p * joint[y, z] / mass if mass > 0 else 0.0
        total += w * math.log(said)
    return total / weights_N.sum()


def nce_by_loops(labels_N, p_NZ, weights_N=None):
    weights_N = np.ones(len(labels_N)) if weights_N is None else weights_N
    joint = {}
    for y, z, w in zip(labels_N, p_NZ.argmax(axis=1), weights_N, strict=True):
        joint[y, z] = joint.get((y, z), 0.0) + w / weights_N.sum()
    mass = {z: sum(value for (_, other), value in joint.items() if other == z) for _, z in joint}
    return sum(value * math.log(value / mass[z]) for (_, z), value in joint.items() if value > 0)


def dirichlet_bound_by_loops(labels_N, p_NZ, steps=10):
    """Evaluate E[log p(y, z, V)] - E[log q] term by term, not simplified, after the same alternation."""
    n, sources = p_NZ.shape
    classes = labels_N.max() + 1
    prior_C = np.bincount(labels_N) / n
    q_NZ = p_NZ.copy()
    for step in range(steps + 1):
        a_CZ = np.array([[prior_C[c] + q_NZ[labels_N == c, z].sum() for z in range(sources)] for c in range(classes)])
        log_v_CZ = digamma(a_CZ) - digamma(a_CZ.sum(axis=0))
        for i in range(n if step < steps else 0):
            weight_Z = p_NZ[i] * np.exp(log_v_CZ[labels_N[i]])
            q_NZ[i] = weight_Z / weight_Z.sum()
    bound = 0.0
    for z in range(sources):
        a_C = a_CZ[:, z]
        bound += gammaln(prior_C.sum()) - gammaln(prior_C).sum() + ((prior_C - 1) * log_v_CZ[:, z]).sum()
        bound -= gammaln(a_C.sum()) - gammaln(a_C).sum() + ((a_C - 1) * log_v_CZ[:, z]).sum()
    for i in range(n):
        for z in range(sources):
            if q_NZ[i, z] > 0:
                bound += q_NZ[i, z] * (np.log(p_NZ[i, z]) + log_v_CZ[labels_N[i], z] - np.log(q_NZ[i, z]))
    return bound / (n * classes)


def gamma_bound_by_loops(labels_N, p_NZ, steps=10):
    n, sources = p_NZ.shape
    classes = labels_N.max() + 1
    prior_C = np.bincount(labels_N) / n
    q_NZ, rate_Z = p_NZ.copy(), np.ones(sources)
    for step in range(steps + 1):
        a_CZ = np.array([[prior_C[c] + q_NZ[labels_N == c, z].sum() for z in range(sources)] for c in range(classes)])
        l_N = [sum(p_NZ[i, z] * a_CZ[:, z].sum() / rate_Z[z] for z in range(sources)) for i in range(n)]
        rate_Z = np.array([1 + sum(p_NZ[i, z] / l_N[i] for i in range(n)) for z in range(sources)])
        log_v_CZ = digamma(a_CZ) - np.log(rate_Z)
        for i in range(n if step < steps else 0):
            weight_Z = p_NZ[i] * np.exp(log_v_CZ[labels_N[i]])
            q_NZ[i] = weight_Z / weight_Z.sum()
    bound = 0.0
    for c in range(classes):
        for z in range(sources):
            a, b, mean = a_CZ[c, z], rate_Z[z], a_CZ[c, z] / rate_Z[z]
            bound += -gammaln(prior_C[c]) + (prior_C[c] - 1) * log_v_CZ[c, z] - mean
            bound -= a * np.log(b) - gammaln(a) + (a - 1) * log_v_CZ[c, z] - b * mean
    for i in range(n):
        normaliser = sum(p_NZ[i, z] * a_CZ[:, z].sum() / rate_Z[z] for z in range(sources))
        bound -= normaliser / l_N[i] + np.log(l_N[i]) - 1
        for z in range(sources):
            if q_NZ[i, z] > 0:
                bound += q_NZ[i, z] * (np.log(p_NZ[i, z]) + log_v_CZ[labels_N[i], z] - np.log(q_NZ[i, z]))
    return bound / (n * classes)


BY_LOOPS = {
    "leep": leep_by_loops,
    "nce": nce_by_loops,
    "pactran_dirichlet": dirichlet_bound_by_loops,
    "pactran_gamma": gamma_bound_by_loops,
}


@st.composite
def predictions(draw):
    images, classes, sources = draw(st.integers(4, 25)), draw(st.integers(2, 4)), draw(st.integers(1, 7))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels_N = np.arange(images) % min(classes, images)
    random.shuffle(labels_N)
    p_NZ = random.dirichlet(np.full(sources, draw(st.sampled_from([0.1, 1.0, 10.0]))), size=images)
    if sources > 1 and draw(st.booleans()):
        p_NZ[:, 0] = 0.0
        p_NZ += 1e-3 * (np.arange(sources) > 0)
    return labels_N, p_NZ / p_NZ.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", BY_LOOPS)
@given(predictions())
@settings(deadline=None, max_examples=25)
def test_same_as_loops(name, prediction):
    labels_N, p_NZ = prediction
    expected = BY_LOOPS[name](labels_N, p_NZ)
    assert measured(name, labels_N, p_NZ).value == pytest.approx(expected, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("name", ["leep", "nce"])
@given(predictions())
@settings(deadline=None, max_examples=25)
def test_influences_are_derivatives(name, prediction):
    labels_N, p_NZ = prediction
    influence_N = measured(name, labels_N, p_NZ).influence_N
    for image in range(len(labels_N)):
        values = []
        for step in (1e-5, -1e-5):
            weights_N = np.ones(len(labels_N))
            weights_N[image] += step
            values.append(BY_LOOPS[name](labels_N, p_NZ, weights_N))
        assert influence_N[image] == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-8)


def test_fixtures():
    value_of = {name: measured(name, LABELS, PROBABILITIES).value for name in BY_LOOPS}
    assert value_of["leep"] == pytest.approx(-0.6862125679, abs=5e-11)
    assert value_of["nce"] == 0.0


def test_the_null_value_of_nce_is_the_mean_over_permutations():
    random = np.random.default_rng(1)
    labels_N = np.repeat([0, 1, 2], [20, 9, 1])
    p_NZ = random.dirichlet(np.full(5, 0.4), size=30)
    panel = Panel(random.normal(size=(30, 2)), labels_N, source_probabilities=p_NZ)
    values = [measure("nce", panel.with_labels(random.permutation(labels_N))).value for _ in range(2000)]
    error = np.std(values) / math.sqrt(len(values))
    assert measure("nce", panel).null_value == pytest.approx(np.mean(values), abs=4 * error)


def test_a_source_class_for_every_image_is_told():
    assert "every_prediction_unique" in measured("nce", [0, 0, 1, 1], np.eye(4)).warnings
    assert measured("nce", [0, 0, 1, 1], np.eye(4)[[0, 1, 2, 2]]).warnings == ()


def test_standard_errors_are_those_of_the_influences():
    sample = synthetic.noisy_classes(80, 6)
    for name in ("leep", "nce"):
        result = measure(name, sample.panel())
        assert result.stderr == pytest.approx(stratified_stderr(result.influence_N, sample.labels_N))
        assert result.stderr > 0


def test_the_bounds_rise_with_every_step():
    sample = synthetic.noisy_classes(40, 6)
    for bound in (dirichlet_bound_by_loops, gamma_bound_by_loops):
        values = [bound(sample.labels_N, sample.probabilities_NZ, steps) for steps in (1, 2, 4, 8, 16)]
        assert values == sorted(values)


def test_thousand_source_classes_do_not_need_a_cube():
    random = np.random.default_rng(0)
    labels_N = np.arange(600) % 200
    p_NZ = random.dirichlet(np.full(1000, 0.05), size=600)
    for name in BY_LOOPS:
        assert measured(name, labels_N, p_NZ).value < 0


@pytest.mark.parametrize("shape", [(60, 7), (40, 90)])
def test_nleep_by_its_steps(shape):
    sample = synthetic.noisy_classes(*shape)
    x_ND = sample.features_ND - sample.features_ND.mean(axis=0)
    left, singular_M, _ = np.linalg.svd(x_ND, full_matrices=False)
    share_M = np.cumsum(singular_M**2) / (singular_M**2).sum()
    kept = next(index for index, share in enumerate(share_M) if share > 0.8) + 1
    points_NK = (left * singular_M)[:, :kept]
    points_NK /= math.sqrt((points_NK**2).sum() / len(points_NK))
    components = max(2, min(3 * COMPONENTS_PER_CLASS, len(points_NK) // IMAGES_PER_COMPONENT))
    values = []
    for seed in range(5):
        mixture = GaussianMixture(components, covariance_type="spherical", random_state=seed).fit(points_NK)
        values.append(leep_by_loops(sample.labels_N, mixture.predict_proba(points_NK)))
    result = measure("nleep", sample.panel())
    assert result.value == pytest.approx(np.mean(values), rel=1e-6)
    assert result.stderr > np.std(values, ddof=1) / math.sqrt(5)


def test_nleep_has_no_more_components_than_points():
    sample = synthetic.noisy_classes(3, 4, classes=2).of(np.arange(60) % 3)
    assert measure("nleep", sample.panel()).value == pytest.approx(0.0, abs=1e-6)


def test_nleep_of_equal_features_is_the_entropy_of_the_classes():
    sample = synthetic.noisy_classes(40, 6, classes=4)
    equal = dataclasses.replace(sample, features_ND=np.ones((40, 6)))
    assert measure("nleep", equal.panel()).value == pytest.approx(-math.log(4))
