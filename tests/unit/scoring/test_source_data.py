"""Distances between source and target classes against linear programmes written out in full.

Legend: N images, D feature dimensions, C target classes, Z source classes.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog

from app.domain.errors import EvaluationFailed
from app.scoring import Panel, SourceClasses, compute, measure, synthetic
from app.scoring.source_data.transport import transport

TIGHT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def full_programme(costs_ZC, weights_Z, weights_C):
    sources, targets = costs_ZC.shape
    equations = []
    for z in range(sources):
        row = np.zeros((sources, targets))
        row[z] = 1
        equations.append(row.ravel())
    for c in range(targets):
        row = np.zeros((sources, targets))
        row[:, c] = 1
        equations.append(row.ravel())
    right = np.concatenate([weights_Z, weights_C])
    solved = linprog(costs_ZC.ravel(), A_eq=np.array(equations)[:-1], b_eq=right[:-1], method="highs-ds", options=TIGHT)
    return solved.fun, solved.x.reshape(sources, targets)


def by_definition(name, features_ND, labels_N, means_ZD, weights_Z):
    weights_Z = np.asarray(weights_Z, dtype=float) / np.sum(weights_Z)
    means_CD = np.array([features_ND[labels_N == c].mean(axis=0) for c in np.unique(labels_N)])
    weights_C = np.array([np.mean(labels_N == c) for c in np.unique(labels_N)])
    distance_ZC = np.array([[math.dist(z, c) for c in means_CD] for z in means_ZD])
    if name != "otce":
        emd, _ = full_programme(distance_ZC, weights_Z, weights_C)
        mean = weights_Z @ distance_ZC @ weights_C
        return math.exp(-0.01 * emd if name == "domain_similarity" else -emd / mean)
    cost, plan_ZC = full_programme(distance_ZC**2, weights_Z, weights_C)
    entropy = 0.0
    for z, c in np.argwhere(plan_ZC > 1e-12):
        entropy -= plan_ZC[z, c] * math.log(plan_ZC[z, c] / plan_ZC[z].sum())
    return -entropy - cost / (weights_Z @ distance_ZC**2 @ weights_C)


@st.composite
def domains(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    images, dimensions, classes = draw(st.integers(6, 25)), draw(st.integers(1, 5)), draw(st.integers(2, 5))
    labels_N = random.permutation(np.arange(images) % classes)
    sources = draw(st.integers(1, 7))
    features_ND = random.normal(size=(images, dimensions)) * draw(st.sampled_from([0.3, 20.0]))
    return features_ND, labels_N, random.normal(size=(sources, dimensions)), random.integers(1, 50, size=sources)


@pytest.mark.parametrize("name", ["domain_similarity", "domain_similarity_scalefree", "otce"])
@given(domains())
@settings(deadline=None, max_examples=25)
def test_same_as_the_definition(name, domain):
    features_ND, labels_N, means_ZD, weights_Z = domain
    actual = compute(name, features_ND, labels_N, source_classes=SourceClasses(means_ZD, weights_Z)).value
    assert actual == pytest.approx(by_definition(name, *domain), rel=1e-8, abs=1e-10)


def test_large_programmes_are_solved_exactly_from_a_few_pairs():
    random = np.random.default_rng(3)
    costs_ZC = np.linalg.norm(random.normal(size=(260, 1, 4)) - random.normal(size=(1, 260, 4)), axis=2)
    found = transport(costs_ZC, np.full(260, 1 / 260), np.full(260, 1 / 260))
    rows, columns = linear_sum_assignment(costs_ZC)
    assert found.cost == pytest.approx(costs_ZC[rows, columns].mean(), rel=1e-9)
    assert found.plan_ZC.sum(axis=0) == pytest.approx(np.full(260, 1 / 260), abs=1e-12)
    assert found.plan_ZC.sum(axis=1) == pytest.approx(np.full(260, 1 / 260), abs=1e-12)


def test_large_programmes_with_unequal_weights():
    random = np.random.default_rng(4)
    costs_ZC = random.uniform(size=(500, 50)) ** 3
    weights_Z, weights_C = random.dirichlet(np.full(500, 0.3)), random.dirichlet(np.ones(50))
    weights_Z = np.maximum(weights_Z, 1e-5) / np.maximum(weights_Z, 1e-5).sum()
    expected, _ = full_programme(costs_ZC, weights_Z, weights_C)
    assert transport(costs_ZC, weights_Z, weights_C).cost == pytest.approx(expected, rel=1e-8)


def test_influences_are_derivatives():
    random = np.random.default_rng(2)
    sample = synthetic.noisy_classes(30, 4, spread=5.0)
    source = SourceClasses(sample.means_ZD * 10, random.integers(1, 9, size=len(sample.means_ZD)))
    x_ND, labels_N = sample.features_ND, sample.labels_N
    result = compute("domain_similarity", x_ND, labels_N, source_classes=source)

    def weighted(weights_N):
        means_CD = np.array(
            [np.average(x_ND[labels_N == c], axis=0, weights=weights_N[labels_N == c]) for c in range(3)]
        )
        weights_C = np.array([weights_N[labels_N == c].sum() for c in range(3)]) / weights_N.sum()
        distance_ZC = np.linalg.norm(np.asarray(source.means_ZD)[:, None] - means_CD, axis=2)
        emd, _ = full_programme(distance_ZC, source.weights_Z / source.weights_Z.sum(), weights_C)
        return math.exp(-0.01 * emd)

    assert result.value == pytest.approx(weighted(np.ones(30)), rel=1e-9)
    for image in range(30):
        step_N = 1e-4 * (np.arange(30) == image)
        slope = (weighted(1 + step_N) - weighted(1 - step_N)) / 2e-4
        assert result.influence_N[image] == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_the_same_classes_are_as_near_as_can_be():
    sample = synthetic.noisy_classes(30, 4)
    means_CD = np.array([sample.features_ND[sample.labels_N == c].mean(axis=0) for c in range(3)])
    panel = Panel(sample.features_ND, sample.labels_N, source_classes=SourceClasses(means_CD, [10, 10, 10]))
    for name, best in {"domain_similarity": 1.0, "domain_similarity_scalefree": 1.0, "otce": 0.0}.items():
        assert measure(name, panel).value == pytest.approx(best, abs=1e-9)


def test_source_classes_without_images_are_left_out():
    sample = synthetic.noisy_classes(30, 4)
    arrays = sample.features_ND, sample.labels_N
    for name in ("domain_similarity", "domain_similarity_scalefree", "otce"):
        weights_Z = np.array([1, 2, 0, 3, 0, 1])
        some = SourceClasses(sample.means_ZD[weights_Z > 0], weights_Z[weights_Z > 0])
        every = compute(name, *arrays, source_classes=SourceClasses(sample.means_ZD, weights_Z))
        assert every.value == pytest.approx(compute(name, *arrays, source_classes=some).value, rel=1e-9)


@pytest.mark.parametrize("name", ["domain_similarity", "domain_similarity_scalefree", "otce"])
@pytest.mark.parametrize("far", [1e-300, 1e200])
def test_source_classes_of_another_magnitude(name, far):
    sample = synthetic.noisy_classes(30, 4)
    source = SourceClasses(np.eye(4) * far, np.ones(4))
    assert np.isfinite(compute(name, sample.features_ND, sample.labels_N, source_classes=source).value)


@pytest.mark.parametrize("factor", [1e-310, 1e307])
def test_features_near_the_ends_of_the_range(factor):
    sample = synthetic.noisy_classes(30, 4)
    expected = measure("otce", sample.panel()).value
    source = SourceClasses(sample.means_ZD * factor, np.arange(1, 7) * 2e307)
    found = compute("otce", sample.features_ND * factor, sample.labels_N, source_classes=source).value
    assert found == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("tiny", [True, False])
def test_source_classes_beyond_all_measure_are_refused(tiny):
    sample = synthetic.noisy_classes(30, 4)
    features_ND, far = (sample.features_ND * 1e-310, 1.0) if tiny else (sample.features_ND, 1e305)
    with pytest.raises(EvaluationFailed, match="times as large as the largest feature") as caught:
        Panel(features_ND, sample.labels_N, source_classes=SourceClasses(np.eye(4) * far, np.ones(4)))
    assert caught.value.code == "invalid_source_classes"


@pytest.mark.parametrize(
    "source",
    [
        (np.eye(4), np.ones(4)),
        SourceClasses([[1, 2], [3]], [1, 1]),
        SourceClasses(np.eye(4), None),
        SourceClasses(np.ma.masked_equal(np.eye(4), 1.0), np.ones(4)),
        SourceClasses(np.eye(4), np.zeros(4)),
    ],
    ids=["tuple", "ragged", "no weights", "masked", "zero weights"],
)
def test_refused_source_classes(source):
    sample = synthetic.noisy_classes(30, 4)
    with pytest.raises(EvaluationFailed) as caught:
        Panel(sample.features_ND, sample.labels_N, source_classes=source)
    assert caught.value.code == "invalid_source_classes"
    assert caught.value.param == "source_classes"


@pytest.mark.parametrize("means", [np.zeros((2, 5)), np.ones((2, 5))])
def test_everything_in_one_point(means):
    panel = Panel(np.ones((8, 5)), np.arange(8) % 2, source_classes=SourceClasses(means, [1, 1]))
    assert measure("domain_similarity", panel).value == pytest.approx(math.exp(-0.01 * math.dist([1] * 5, means[0])))
    assert measure("otce", panel).value == pytest.approx(-math.log(2) - 1)
    assert "constant_features" in measure("domain_similarity_scalefree", panel).warnings
