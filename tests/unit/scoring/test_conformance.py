"""The checks themselves: that they see what they are there to see.

Legend: N images.
"""

import dataclasses

import numpy as np
import pytest

from app.domain.errors import EvaluationFailed
from app.scoring import SCORES, Panel, Result, Score, conformance, synthetic
from app.scoring.extensions import find_installed
from app.scoring.registry import all_scores

SOUND = SCORES["lfc_centered"]


def failures(function, **changes):
    """Return the names of the checks that a score of this function fails."""
    globals()["under_test"] = function
    score = dataclasses.replace(SOUND, name="under_test", implementation=f"{__name__}:under_test", **changes)
    return {check.name for check in conformance.checks(score) if not check.passed}


def separation(panel: Panel) -> Result:
    return Result(value=0.0 if panel.constant else float((panel.class_sums_CD**2).sum() / panel.squared_norms_N.sum()))


def test_a_sound_score_passes():
    assert failures(separation) == set()


def test_a_score_that_raises_fails_each_check_and_no_more():
    def broken(panel):
        raise ZeroDivisionError("division by zero")

    checks = list(conformance.checks(SOUND))
    names = {check.name for check in checks}
    assert failures(broken) == names - {"the statement is complete"}


def test_a_typed_refusal_is_allowed_on_odd_input_only():
    def choosy(panel):
        if panel.num_images < 20:
            raise EvaluationFailed("too_few_images", "Too few.")
        return separation(panel)

    def too_choosy(panel):
        raise EvaluationFailed("too_few_images", "Too few.")

    assert failures(choosy) == set()
    assert "larger is better" in failures(too_choosy)
    assert "odd input: three images" not in failures(too_choosy)


def test_numbers_that_are_not_finite_are_seen():
    def fragile(panel):
        with np.errstate(all="ignore"):
            return Result(value=float((panel.class_sums_CD**2).sum() / np.float64(panel.squared_norms_N.sum())))

    assert failures(fragile) == {"odd input: all features equal", "odd input: all features zero"}


def test_influences_of_the_wrong_shape_are_seen():
    def wide(panel):
        return Result(value=separation(panel).value, influence_N=np.zeros(panel.num_images + 1))

    assert "the value is finite, the result's arrays are per image" in failures(wide)


def test_writing_to_the_panel_is_seen():
    def careless(panel):
        panel.centred_ND *= 2
        return separation(panel)

    assert "the input is left alone" in failures(careless)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "Two Words"}, "small letters"),
        ({"meaning": "No stop"}, "full stop"),
        ({"paper": ""}, "paper is empty"),
        ({"invariances": frozenset({"dilation"})}, "'dilation' is no invariance"),
        ({"inputs": ("gradients",)}, "'gradients' is no input"),
        ({"implementation": "somewhere"}, "module:function"),
        ({"implementation": ""}, "either an implementation or parts"),
    ],
)
def test_statements_are_read(changes, told):
    assert conformance.statement_problem(SOUND) == ""
    assert told in conformance.statement_problem(dataclasses.replace(SOUND, **changes))


@pytest.mark.parametrize("scale", [1e-200, 1e-4, 37.3, 1e200])
def test_made_up_inputs_go_with_the_features(scale):
    sample = synthetic.noisy_classes(20, 6)
    scaled = synthetic.sample_of(sample.features_ND * scale, sample.labels_N)
    padded = synthetic.sample_of(np.hstack([sample.features_ND, np.zeros((20, 9))]), sample.labels_N)
    for other in (scaled, padded):
        assert other.probabilities_NZ == pytest.approx(sample.probabilities_NZ, rel=1e-9)
        assert other.reference_NR == pytest.approx(sample.reference_NR, rel=1e-9)
    assert scaled.means_ZD == pytest.approx(sample.means_ZD * scale, rel=1e-9)
    assert padded.means_ZD[:, :6] == pytest.approx(sample.means_ZD, rel=1e-9)
    assert not padded.means_ZD[:, 6:].any()


def test_changes_reach_what_lives_in_the_same_space():
    sample = synthetic.noisy_classes(20, 6)
    for change in conformance.INVARIANCES:
        other = sample.changed(change, seed=1)
        order = [int(np.flatnonzero((sample.reference_NR == row).all(axis=1))[0]) for row in other.reference_NR]
        assert (order != list(range(20))) == (change == "sample_permutation")
        assert np.array_equal(other.probabilities_NZ, sample.probabilities_NZ[order])
        if change in {"offset", "rotation", "sample_permutation"}:
            before = np.linalg.norm(sample.features_ND[order, None] - sample.means_ZD, axis=2)
            after = np.linalg.norm(other.features_ND[:, None] - other.means_ZD, axis=2)
            assert after == pytest.approx(before, rel=1e-9)


def test_no_package_here_adds_scores():
    assert find_installed(frozenset(SCORES)).refused == ()
    assert isinstance(next(iter(all_scores().values())), Score)
