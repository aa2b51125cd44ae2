"""Scores among candidates: what a combination is, and that it depends on who else is there.

Legend: N images, D feature dimensions.
"""

import numpy as np
import pytest

from app.domain.errors import BadRequest, EvaluationFailed
from app.scoring import SCORES, Panel, compare, find, measure
from app.scoring.zoo_relative import combine

COMBINED = tuple(name for name, score in SCORES.items() if score.zoo_relative)


def candidates(*spreads):
    labels_N = np.arange(60) % 3
    panels = []
    for seed, spread in enumerate(spreads):
        random = np.random.default_rng(seed)
        centres = random.normal(size=(3, 8)) * spread
        panels.append(Panel(random.normal(size=(60, 8)) + centres[labels_N], labels_N))
    return panels


def test_the_published_example():
    """Three raw terms of three candidates, then a fourth, which swaps two of them."""
    raw = [(202.1, 0.949, -4.423), (171.0, 0.931, -4.02), (201.4, 0.989, -4.69)]
    parts = ("ncti_spread", "ncti_posterior", "ncti_compactness")

    def values(rows):
        return combine(find("ncti"), dict(zip(parts, zip(*rows, strict=True), strict=True)))

    low = (202.1 - 171.0) / (202.1 - 171.0) + (0.949 - 0.931) / (0.989 - 0.931) + (4.69 - 4.423) / (4.69 - 4.02)
    first = values(raw)
    assert first[0] == pytest.approx(low)
    assert first[0] > first[1]
    second = values([*raw, (420.6, 0.938, -4.605)])
    assert second[0] < second[1]


@pytest.mark.parametrize("name", COMBINED)
def test_a_single_model_is_refused(name):
    with pytest.raises(EvaluationFailed) as caught:
        measure(name, candidates(1.0)[0])
    assert caught.value.code == "zoo_required"
    assert caught.value.param == name
    assert all(part in caught.value.hint for part, _ in SCORES[name].combines)


@pytest.mark.parametrize("name", COMBINED)
def test_every_part_is_a_score_with_a_value_of_its_own(name):
    assert SCORES[name].implementation == ""
    for part, weight in SCORES[name].combines:
        assert not find(part).zoo_relative
        assert weight > 0


@pytest.mark.parametrize("name", COMBINED)
def test_a_new_candidate_changes_the_values_of_the_others(name):
    panels = candidates(0.3, 0.6, 0.9, 3.0)
    before, after = compare(name, panels[:3]), compare(name, panels)
    assert len(after) == 4
    assert np.abs(np.array(before) - after[:3]).max() > 1e-3
    order = [2, 0, 3, 1]
    assert compare(name, [panels[i] for i in order]) == pytest.approx([after[i] for i in order])


@pytest.mark.parametrize("name", COMBINED)
def test_extremes_of_every_part_bound_the_value(name):
    values = compare(name, candidates(0.3, 0.6, 0.9, 3.0))
    assert min(values) >= 0
    assert max(values) <= sum(weight for _, weight in SCORES[name].combines)


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("name", COMBINED)
def test_fewer_than_two_candidates_are_refused(name, count):
    with pytest.raises(EvaluationFailed) as caught:
        compare(name, candidates(1.0)[:count])
    assert caught.value.code == "zoo_required"


@pytest.mark.parametrize("name", ["etran", "lfc"])
def test_candidates_of_different_images_are_refused(name):
    first, second = candidates(0.3, 0.6)
    fewer = Panel(second.features_ND[:59], second.labels_N[:59])
    others = second.with_labels(np.roll(second.labels_N, 1))
    renamed = second.with_labels(np.array(["ant", "bee", "cat"])[second.labels_N])
    for wrong, told in ((fewer, "Candidate 3 has 59 images, the first 60"), (others, "Candidate 3 has other labels")):
        with pytest.raises(EvaluationFailed, match=told) as caught:
            compare(name, [first, second, wrong])
        assert caught.value.code == "different_images"
    assert compare(name, [first, renamed]) == compare(name, [first, second])


def test_a_part_in_which_all_agree_counts_as_nothing():
    score = find("etran")
    assert combine(score, {"etran_energy": [7.0, 7.0], "etran_class": [0.2, 0.9]}) == [0.0, 0.85]
    assert combine(score, {"etran_energy": [-1.7e308, 1.7e308], "etran_class": [0.2, 0.2]}) == [0.0, 0.15]


def test_a_missing_part_is_an_error():
    with pytest.raises(ValueError, match="etran_energy"):
        combine(find("etran"), {"etran_class": [0.2, 0.9]})


def test_ordinary_scores_are_compared_as_they_are():
    panels = candidates(0.3, 2.0)
    assert compare("lfc_centered", panels) == [measure("lfc_centered", panel).value for panel in panels]
    with pytest.raises(BadRequest):
        compare("nothing", panels)
