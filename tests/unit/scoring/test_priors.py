"""What is known without labels.

Legend: N images, D feature dimensions.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.errors import EvaluationFailed
from app.scoring import Panel, compute, find, measure
from app.scoring.measurement import can_measure

X_ND = np.random.default_rng(0).normal(size=(12, 4))
LABELS = np.arange(12) % 2


def test_facts():
    panel = Panel(X_ND, LABELS, facts={"parameters": 25_557_032, "flops": 4.1e9, "source_accuracy": 0.761})
    assert measure("parameters", panel).value == pytest.approx(math.log10(25_557_032))
    assert measure("flops", panel).value == pytest.approx(9.612783857)
    assert measure("source_accuracy", panel).value == 0.761


@pytest.mark.parametrize("name", ["parameters", "flops", "source_accuracy"])
@pytest.mark.parametrize("others", [False, True])
def test_a_missing_fact_is_refused(name, others):
    facts = {fact: 1.0 for fact in ("parameters", "flops", "source_accuracy") if others and fact != name}
    with pytest.raises(EvaluationFailed) as caught:
        compute(name, X_ND, LABELS, facts=facts)
    assert caught.value.code == "fact_unknown"
    assert caught.value.hint
    assert can_measure(find(name), Panel(X_ND, LABELS, facts=facts)) == others


@pytest.mark.parametrize("name", ["parameters", "flops"])
def test_nothing_has_no_logarithm(name):
    with pytest.raises(EvaluationFailed) as caught:
        compute(name, X_ND, LABELS, facts={name: 0})
    assert caught.value.code == "fact_unknown"


@given(st.integers(3, 20), st.integers(1, 20), st.integers(0, 2**32))
@settings(deadline=None, max_examples=40)
def test_effective_dimensions_by_singular_values(images, dimensions, seed):
    x_ND = np.random.default_rng(seed).normal(size=(images, dimensions)) + 0.3
    labels_N = np.arange(images) % 2
    singular_M = np.linalg.svd(x_ND, compute_uv=False)
    share_M = singular_M / singular_M.sum() + 1e-7
    assert compute("rankme", x_ND, labels_N).value == pytest.approx(math.exp(-share_M @ np.log(share_M)), rel=1e-8)
    values_D = np.atleast_1d(np.linalg.eigvalsh(np.atleast_2d(np.cov(x_ND.T))))
    expected = values_D.sum() ** 2 / (values_D**2).sum()
    assert compute("participation_ratio", x_ND, labels_N).value == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("shape", [(30, 5), (12, 40)])
def test_influences_of_the_participation_ratio_are_derivatives(shape):
    x_ND = np.random.default_rng(1).normal(size=shape) * np.linspace(0.2, 2, shape[1])
    result = compute("participation_ratio", x_ND, np.arange(shape[0]) % 2)

    def weighted(weights_N):
        scatter_DD = np.cov(x_ND.T, aweights=weights_N)
        return np.trace(scatter_DD) ** 2 / (scatter_DD**2).sum()

    for image in range(shape[0]):
        step_N = 1e-5 * (np.arange(shape[0]) == image)
        slope = (weighted(1 + step_N) - weighted(1 - step_N)) / 2e-5
        assert result.influence_N[image] == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_duplicates_and_single_directions():
    twice_ND = np.vstack([X_ND[:3], X_ND[:3]])
    share_M = np.linalg.svd(X_ND[:3], compute_uv=False)
    share_M /= share_M.sum()
    expected = math.exp(-share_M @ np.log(share_M))
    assert compute("rankme", twice_ND, LABELS[:6]).value == pytest.approx(expected, rel=1e-5)
    line_ND = np.outer(np.arange(12.0), [1, 2, 3])
    for name in ("rankme", "participation_ratio"):
        assert compute(name, line_ND, LABELS).value == pytest.approx(1.0, rel=1e-5)
