"""Races against worlds whose winner is known."""

import dataclasses

import numpy as np
import pytest

from app.domain.racing import Look, eliminated, rank_race
from app.domain.ranking import rank
from app.domain.subsets import looks
from tests.unit.domain.test_ranking import answers, candidates


def race(seed, abilities_J, images=400, classes=4, keep=1, error_probability=0.1):
    """Return (ids still in the race at the end, model-images computed)."""
    random = np.random.default_rng(seed)
    correct_NJ, labels_N = answers(abilities_J, images, random), np.arange(images) % classes
    left, done, work = candidates(correct_NJ), 0, 0
    sizes = looks(images)
    for size in sizes:
        work += (size - done) * len(left)
        done = size
        if size == images:
            break
        seen = [dataclasses.replace(one, correct_N=one.correct_N[:size]) for one in left]
        dropped = eliminated(
            seen,
            labels_N[:size],
            keep=keep,
            error_probability=error_probability,
            number_of_looks=len(sizes) - 1,
            replicates=300,
        )
        left = [one for one in left if one.id not in dropped]
    return {one.id for one in left}, work


def test_hopeless_models_are_dropped_early():
    left, work = race(0, [2.0, -3.0, -3.5, -2.5, 1.9])
    assert {"mdl_0", "mdl_4"} <= left
    assert not {"mdl_1", "mdl_2", "mdl_3"} & left
    assert work < 0.65 * 5 * 400


def test_the_winner_is_lost_no_more_often_than_stated():
    abilities_J = [1.0, 0.9, 0.7, 0.2, -0.5, -1.5]
    lost = sum("mdl_0" not in race(seed, abilities_J, error_probability=0.1)[0] for seed in range(200))
    assert lost <= 0.1 * 200


def test_the_first_k_stay():
    left, _ = race(3, [1.5, 1.4, 1.3, -2.0], keep=3)
    assert {"mdl_0", "mdl_1", "mdl_2"} <= left
    assert race(3, [1.5, 1.4, 1.3], keep=3)[0] == {"mdl_0", "mdl_1", "mdl_2"}


def test_equal_models_are_all_kept():
    correct_NJ = np.repeat(np.arange(90)[:, None] % 4 > 0, 5, axis=1)
    same = candidates(correct_NJ)
    assert eliminated(same, np.arange(90) % 3, keep=1, error_probability=0.05, number_of_looks=3) == []


@pytest.mark.parametrize("wrong", [{"keep": 0}, {"error_probability": 0.0}, {"number_of_looks": 0}])
def test_arguments_out_of_range(wrong):
    arguments = {"keep": 1, "error_probability": 0.05, "number_of_looks": 2} | wrong
    with pytest.raises(ValueError, match="race"):
        eliminated(candidates(np.ones((8, 3), dtype=bool)), np.arange(8) % 2, **arguments)


def look(abilities_J, images, names, seed=0):
    labels_N = np.arange(images) % 4
    correct_NJ = answers(abilities_J, images, np.random.default_rng(seed))
    named = [dataclasses.replace(one, id=name) for one, name in zip(candidates(correct_NJ), names, strict=True)]
    return Look(candidates=named, labels_N=labels_N, held_out_N=np.ones(images, bool), units_N=np.arange(images))


def test_a_dropped_model_ranks_behind_all_that_went_on_however_well_it_did():
    looks_ = [look([2, 0], 400, ["a", "b"]), look([3], 128, ["c"]), look([4, -2], 64, ["d", "e"])]
    ranking = rank_race(looks_, keep=1, level=0.9, replicates=200)
    assert [model.id for model in ranking.models] == ["a", "b", "c", "d", "e"]
    assert [model.rank for model in ranking.models] == [1, 2, 3, 4, 5]
    assert ranking.models[0].rank_interval == (1, 1)
    assert ranking.models[1].rank_interval == (2, 5)  # it was told apart from a alone
    assert {model.rank_interval for model in ranking.models[2:]} == {(2, 5)}
    assert [model.tie_group for model in ranking.models] == [1, 2, 3, 4, 5]
    assert [model.probability_of_best for model in ranking.models[2:]] == [0.0, 0.0, 0.0]
    assert ranking.verdict.startswith(f"{ranking.models[0].name} is the best of 5 models")


def test_the_last_model_of_a_race_is_the_best_of_all():
    ranking = rank_race([look([2], 400, ["a"]), look([3, -2], 64, ["b", "c"])], keep=1, level=0.9, replicates=200)
    assert "is the best of 3 models" in ranking.verdict
    assert "dropped on fewer images" in ranking.verdict


def test_without_dropped_models_it_is_the_usual_ranking():
    one = look([1, 0.5, 0], 200, ["a", "b", "c"])
    plain = rank(one.candidates, one.labels_N, units_N=one.units_N, replicates=200, level=0.9, top_k=2)
    assert rank_race([one], keep=2, level=0.9, replicates=200) == plain
