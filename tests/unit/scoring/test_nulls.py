"""The value of shuffled labels."""

import numpy as np
import pytest

from app.domain.errors import EvaluationFailed
from app.scoring import SCORES, Panel, find, measure, nulls
from app.scoring.measurement import can_measure


def classes(images=60, dimensions=20, seed=0):
    random = np.random.default_rng(seed)
    labels_N = np.repeat([0, 1, 2], [images // 2, images // 3, images - images // 2 - images // 3])
    return random.normal(size=(images, dimensions)) + random.normal(size=(3, dimensions))[labels_N] * 0.7, labels_N


def closed_forms():
    panel = Panel(*classes())
    return [
        name
        for name, score in SCORES.items()
        if can_measure(score, panel) and measure(name, panel).null_value is not None
    ]


@pytest.mark.parametrize("name", closed_forms())
@pytest.mark.parametrize("shape", [(60, 20), (30, 80)], ids=["tall", "wide"])
def test_closed_forms_are_the_mean_over_permutations(name, shape):
    panel = Panel(*classes(*shape))
    expected = nulls.by_permutation(find(name), panel, permutations=400)
    assert measure(name, panel).null_value == pytest.approx(expected.mean, abs=4.5 * expected.stderr + 1e-12)


def test_the_closed_form_is_preferred():
    panel = Panel(*classes())
    score = find("lfc_centered")
    assert nulls.of(score, panel, measure("lfc_centered", panel)).origin == "closed form"
    found = nulls.of(find("knn"), panel, measure("knn", panel), permutations=5)
    assert found.origin == "5 permutations of the labels"
    assert 0.2 < found.mean < 0.6


def test_shuffling_leaves_no_trace_in_the_panel():
    panel = Panel(*classes())
    before = {name: measure(name, panel).value for name in ("lfc", "logme", "knn", "linear_probe")}
    nulls.by_permutation(find("lfc"), panel, permutations=3)
    assert {name: measure(name, panel).value for name in before} == before
    shuffled = panel.with_labels(panel.labels_N[::-1].copy())
    fresh = Panel(panel.features_ND * panel.scale, panel.labels_N[::-1])
    for name in before:
        assert measure(name, shuffled).value == pytest.approx(measure(name, fresh).value, rel=1e-9)


def test_a_score_without_labels_has_no_null():
    score = next(score for score in SCORES.values() if "labels" not in score.inputs and not score.zoo_relative)
    with pytest.raises(EvaluationFailed) as caught:
        nulls.by_permutation(score, Panel(*classes()))
    assert caught.value.code == "no_null"
