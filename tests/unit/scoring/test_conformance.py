"""The checks themselves: that they see what they are there to see.

Legend: N images.
"""

import dataclasses
import re
import sys

import numpy as np
import pytest

from app.domain.errors import BadRequest, EvaluationFailed
from app.scoring import SCORES, Panel, Result, Score, conformance, synthetic
from app.scoring.extensions import find_installed
from app.scoring.measurement import measure_score
from app.scoring.own_file import load_scores
from app.scoring.registry import all_scores

SOUND = SCORES["lfc_centered"]


def stated(function):
    """Return a score whose implementation is this function."""
    globals()["under_test"] = function
    return dataclasses.replace(SOUND, name="under_test", implementation=f"{__name__}:under_test")


def run(function):
    return list(conformance.checks(stated(function)))


def failures(function):
    """Return the names of the checks that a score of this function fails."""
    return {check.name for check in run(function) if not check.passed}


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


def test_an_operation_of_numpy_without_a_number_is_a_typed_refusal():
    def careless(panel):
        return Result(value=float(np.float64(1.0) / np.float64(0.0)))

    with pytest.raises(EvaluationFailed, match=r"under_test stopped where numpy .* divide by zero") as caught:
        measure_score(stated(careless), synthetic.noisy_classes(60, 7).panel())
    assert caught.value.code == "score_not_finite"
    assert "odd input: three images" in failures(careless)


def test_influences_of_the_wrong_shape_are_seen():
    def wide(panel):
        return Result(value=separation(panel).value, influence_N=np.zeros(panel.num_images + 1))

    assert "the value is finite, the result's arrays are per image" in failures(wide)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (0.5, "returned a float; return a Result(value=...)."),
        (np.float64(0.5), "returned a float64; return a Result"),
        (None, "returned a NoneType; return a Result"),
        (Result(value=np.ones(3)), "a Result whose value is of type ndarray, not a number."),
        (Result(value=None), "a Result whose value is of type NoneType"),
        (Result(value=1.0, stderr="small"), "a Result whose stderr is of type str"),
        (Result(value=1.0, influence_N=np.zeros(61)), "influence_N has the shape (61,); one number for each of 60"),
        (Result(value=1.0, influence_N=np.zeros((60, 1))), "influence_N has the shape (60, 1);"),
        (Result(value=1.0, held_out_N=[True] * 60), "held_out_N is of type list, not a numpy array."),
    ],
    ids=str,
)
def test_what_is_no_result_is_said_once(returned, told):
    checks = run(lambda panel: returned)
    assert [check.passed for check in checks] == [True, False]
    assert told in checks[1].detail
    with pytest.raises(EvaluationFailed, match=re.escape(told)) as caught:
        measure_score(stated(lambda panel: returned), synthetic.noisy_classes(60, 7).panel())
    assert caught.value.code == "invalid_result"


def test_a_plain_number_on_odd_input_only_is_seen():
    assert failures(lambda panel: 0.0 if panel.constant else separation(panel)) == {
        "odd input: all features equal",
        "odd input: all features zero",
    }


def test_a_score_that_ends_the_program_fails_each_check():
    def leaving(panel):
        sys.exit(0)

    checks = run(leaving)
    assert len(checks) > 20
    assert {check.detail for check in checks[1:]} == {"raised SystemExit: 0"}


def test_what_a_score_prints_stays_off_standard_output(capsys):
    def chatty(panel):
        print("computing")
        return separation(panel)

    assert failures(chatty) == set()
    told = capsys.readouterr()
    assert told.out == ""
    assert "computing" in told.err


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
        ({"group": "feature"}, "'feature' is no group: choose from features, gradients, head, source_data, prior"),
        ({"inputs": ("kernels",)}, "'kernels' is no input"),
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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "does not exist"),
        ("import sys; sys.exit(3)", "could not be run: SystemExit: 3"),
        ("1 / 0", "could not be run: ZeroDivisionError"),
    ],
)
def test_files_that_cannot_be_loaded(tmp_path, text, told):
    path = tmp_path / "mine.py"
    if text:
        path.write_text(text)
    with pytest.raises(BadRequest, match=told) as caught:
        load_scores(path)
    assert caught.value.code == "score_file_failed"


def test_no_package_here_adds_scores():
    assert find_installed(frozenset(SCORES)).refused == ()
    assert isinstance(next(iter(all_scores().values())), Score)
