"""The ranking against worlds whose truth is known.

Legend: N images, J candidates.
"""

import math
import time
from fractions import Fraction

import numpy as np
import pytest

from app.domain.ranking import (
    Candidate,
    _difference_stderr,
    _resampled_excess,
    accuracy_stderr,
    binomial_tail,
    rank,
    wilson_interval,
)


def candidates(correct_NJ, parameters=None):
    count = correct_NJ.shape[1]
    parameters = range(1, count + 1) if parameters is None else parameters
    return [
        Candidate(id=f"mdl_{j}", name=f"model-{j}", parameters=size, correct_N=correct_NJ[:, j])
        for j, size in zip(range(count), parameters, strict=True)
    ]


def answers(abilities_J, images, random):
    """Return right and wrong answers of models of different ability to images of different difficulty."""
    difficulty_N1 = random.normal(size=(images, 1)) * 2.5
    return np.asarray(abilities_J) + random.logistic(size=(images, len(abilities_J))) * 0.7 > difficulty_N1


def shares(right_of_100):
    return np.stack([np.arange(200) % 100 < right for right in right_of_100], axis=1)


LABELS_200 = np.arange(200) // 100


def test_order_is_accuracy_then_size_then_name():
    correct_NJ = shares([80, 90, 80, 90])
    ranking = rank(candidates(correct_NJ, [5, 9, 4, 9]), LABELS_200)
    assert [model.name for model in ranking.models] == ["model-1", "model-3", "model-2", "model-0"]
    assert [model.rank for model in ranking.models] == [1, 2, 3, 4]
    assert [model.accuracy for model in ranking.models] == [0.9, 0.9, 0.8, 0.8]
    assert ranking.models[0].stderr == accuracy_stderr(180, 200)


def test_the_order_of_candidates_does_not_matter():
    random = np.random.default_rng(0)
    given = candidates(answers([1.0, 1.2, 0.4, 1.0], 90, random))
    labels_N = np.arange(90) % 3
    expected = rank(given, labels_N, replicates=200, seed=4)
    for _ in range(5):
        assert rank(random.permutation(given).tolist(), labels_N, replicates=200, seed=4) == expected
    assert rank(given, labels_N, replicates=200, seed=5) != expected


def test_resampling_is_paired():
    """Two models that differ on few images are told apart, where unpaired intervals of each would overlap widely."""
    hard_N = np.arange(200) % 100 < 50
    better_N = hard_N | (np.arange(200) % 10 == 7)
    ranking = rank(candidates(np.stack([hard_N, better_N], axis=1)), LABELS_200)
    best, second = ranking.models
    assert best.accuracy - second.accuracy < 2 * (best.stderr + second.stderr)
    assert (best.tie_group, second.tie_group) == (1, 2)
    assert (best.rank_interval, second.rank_interval) == ((1, 1), (2, 2))
    assert best.probability_of_best > 0.99


def test_one_image_does_not_separate_two_models():
    correct_NJ = np.ones((20, 2), dtype=bool)
    correct_NJ[0, 1] = False
    ranking = rank(candidates(correct_NJ), np.arange(20) % 2)
    assert [model.tie_group for model in ranking.models] == [1, 1]
    whole_class_NJ = np.ones((12, 2), dtype=bool)
    whole_class_NJ[:2, 1] = False  # constant within every class: resampling within classes cannot move it
    ranking = rank(candidates(whole_class_NJ), np.arange(12) // 2)
    assert [model.tie_group for model in ranking.models] == [1, 1]


def test_tie_groups_go_down_from_the_top():
    random = np.random.default_rng(1)
    correct_NJ = np.stack([random.random(2000) < share for share in (0.9, 0.895, 0.7, 0.69, 0.4)], axis=1)
    ranking = rank(candidates(correct_NJ), np.arange(2000) % 4)
    assert [model.tie_group for model in ranking.models] == [1, 1, 2, 2, 3]
    assert [model.rank_interval for model in ranking.models] == [(1, 2), (1, 2), (3, 4), (3, 4), (5, 5)]
    assert ranking.stability.tie_group_size == 2
    assert ranking.stability.top1_probability == ranking.models[0].probability_of_best


def test_identical_models_tie_and_the_smallest_is_named():
    ranking = rank(candidates(shares([90, 90, 90]), [30, 10, 20]), LABELS_200)
    assert ranking.models[0].name == "model-1"
    assert [model.probability_of_best for model in ranking.models] == pytest.approx([1 / 3] * 3)
    assert [model.tie_group for model in ranking.models] == [1, 1, 1]
    assert {model.rank_interval for model in ranking.models} == {(1, 3)}
    assert ranking.verdict == "3 models are statistically tied at the top; model-1 is the smallest of them."


def test_a_tied_model_need_not_be_the_first_to_be_the_smallest():
    ranking = rank(candidates(shares([88, 90, 20]), [10, 20, 5]), LABELS_200)
    assert ranking.stability.tie_group_size == 2
    assert ranking.verdict == "2 models are statistically tied at the top; model-0 is the smallest of them."


def test_models_of_equal_size():
    ranking = rank(candidates(shares([90, 89]), [10, 10]), LABELS_200)
    assert ranking.verdict == (
        "2 models of equal size are statistically tied at the top; model-0 is the first of them."
    )


def test_a_clear_winner():
    ranking = rank(candidates(shares([60, 90, 55])), LABELS_200)
    assert ranking.signal
    assert ranking.verdict == (
        "model-1 is the best of 3 models: it gets 90.0% of the held-out images right, 30.0 points more than model-0, "
        "the next one."
    )


def test_a_single_model():
    ranking = rank(candidates(shares([90])), LABELS_200)
    assert ranking.models[0].rank_interval == (1, 1)
    assert ranking.models[0].probability_of_best == 1.0
    assert ranking.verdict == "Only one model was evaluated: model-0 gets 90.0% of the held-out images right."


def test_no_model():
    ranking = rank([], LABELS_200)
    assert ranking.models == ()
    assert not ranking.signal
    assert ranking.verdict == "No model could be evaluated."


def test_guessing_the_largest_class_is_no_signal():
    labels_N = np.repeat([0, 1], [140, 60])
    majority = labels_N == 0
    ranking = rank(candidates(majority[:, None]), labels_N)
    assert not ranking.signal
    assert ranking.verdict.startswith("No signal: no model predicts these labels reliably better")
    assert "(70.0% of the held-out images)" in ranking.verdict


def test_more_candidates_need_more_evidence():
    labels_N = np.arange(100) % 2
    correct_N = np.arange(100) % 50 < 33
    outcomes = [
        rank(candidates(np.repeat(correct_N[:, None], count, axis=1)), labels_N, replicates=2).signal
        for count in (1, 100)
    ]
    assert outcomes == [True, False]


def test_method_says_what_was_resampled():
    labels_N = np.append(np.arange(30) % 3, 3)
    method = rank(candidates(np.ones((31, 2), dtype=bool)), labels_N, replicates=50, level=0.8).method
    assert "50 bootstrap resamples of the 30 held-out images" in method
    assert "each of the 3 classes" in method
    assert "80% confidence" in method


def test_images_of_singleton_classes_are_not_counted():
    labels_N = np.append(np.arange(200) % 2, 2)
    correct_NJ = np.vstack([shares([90, 80]), [[False, False]]])
    assert [model.accuracy for model in rank(candidates(correct_NJ), labels_N).models] == [0.9, 0.8]
    given = rank(candidates(correct_NJ), labels_N, held_out_N=np.arange(201) < 100)
    assert [model.accuracy for model in given.models] == [0.9, 0.8]


@pytest.mark.parametrize(
    "arguments",
    [{"labels_N": np.arange(3)}, {"replicates": 1}, {"level": 1.0}, {"held_out_N": np.zeros(200, dtype=bool)}],
)
def test_misuse_is_refused(arguments):
    with pytest.raises(ValueError, match=r"ranking needs|one answer per label"):
        rank(candidates(shares([90])), **{"labels_N": LABELS_200, **arguments})


def test_resamples_have_the_variance_of_fresh_images():
    """Even in classes of two images, where a plain bootstrap has half of it."""
    random = np.random.default_rng(0)
    labels_H = np.arange(120) // 2
    correct_HJ = random.random((120, 3)) < (0.5, 0.7, 0.9)
    excess_HJ = correct_HJ - correct_HJ.mean(axis=0)
    resampled_RJ = _resampled_excess(excess_HJ, labels_H, 20_000, 0) / 120
    assert resampled_RJ.mean(axis=0) == pytest.approx(np.zeros(3), abs=2e-3)
    for j, k in ((0, 1), (1, 2)):
        difference_H = correct_HJ[:, j].astype(float) - correct_HJ[:, k]
        variance = sum(2 * difference_H[labels_H == label].var(ddof=1) for label in range(60)) / 120**2
        assert (resampled_RJ[:, j] - resampled_RJ[:, k]).var() == pytest.approx(variance, rel=0.05)
        stated = _difference_stderr(excess_HJ, labels_H, 120)[j, k] ** 2
        assert stated == pytest.approx(variance + 1 / 120**2, rel=1e-9)


@pytest.mark.parametrize(
    ("right", "total", "share"), [(7, 10, 0.5), (0, 5, 0.3), (5, 5, 0.2), (60, 90, Fraction(1, 3))]
)
def test_binomial_tail_is_exact(right, total, share):
    exact = sum(
        math.comb(total, k) * Fraction(share) ** k * (1 - Fraction(share)) ** (total - k)
        for k in range(right, total + 1)
    )
    assert binomial_tail(right, total, float(share)) == pytest.approx(float(exact), rel=1e-9)


def test_binomial_tail_at_the_ends():
    assert binomial_tail(3, 5, 1.0) == 1.0
    assert 0.0 <= binomial_tail(20_000, 20_000, 0.01) < 1e-300


def test_standard_error_of_an_accuracy():
    assert accuracy_stderr(500, 1000) == pytest.approx(math.sqrt(0.25 / 1000), rel=1e-3)
    assert accuracy_stderr(10, 10) == pytest.approx(0.0659, abs=1e-4)
    assert accuracy_stderr(0, 10) == pytest.approx(accuracy_stderr(10, 10))


@pytest.mark.parametrize(("images", "spread"), [(60, 0.5), (300, 0.15)])
def test_rank_intervals_cover_the_true_rank(images, spread):
    random = np.random.default_rng(0)
    covered, in_top_group = [], []
    for seed in range(60):
        abilities_J = random.normal(size=7) * spread + 1
        correct_NJ = answers(abilities_J, images, random)
        ranking = rank(candidates(correct_NJ), random.integers(0, 5, size=images), replicates=200, seed=seed)
        true_rank = {f"mdl_{j}": 1 + int((abilities_J > ability).sum()) for j, ability in enumerate(abilities_J)}
        for model in ranking.models:
            low, high = model.rank_interval
            covered.append(low <= true_rank[model.id] <= high)
            if true_rank[model.id] == 1:
                in_top_group.append(model.tie_group == 1)
    assert np.mean(covered) >= 0.9
    assert np.mean(in_top_group) >= 0.9


def test_equal_models_are_told_apart_no_more_often_than_stated():
    random = np.random.default_rng(0)
    labels_N = np.arange(150) % 5
    covered = []
    for seed in range(80):
        ranking = rank(candidates(answers(np.ones(6), 150, random)), labels_N, replicates=200, seed=seed)
        covered += [model.rank_interval == (1, 6) for model in ranking.models]
    assert np.mean(covered) >= 0.9


def test_permuted_labels_give_no_signal():
    """Answers as overdispersed as cross-validated ones under permuted labels: their variance is up to 1.8 binomial."""
    random = np.random.default_rng(0)
    labels_N = np.arange(100) % 2
    signals = []
    for seed in range(300):
        share_J = np.clip(0.5 + random.normal(size=5) * math.sqrt(0.8 * 0.25 / 100), 0, 1)
        correct_NJ = random.random((100, 5)) < share_J
        signals.append(rank(candidates(correct_NJ), labels_N, replicates=2, seed=seed).signal)
    assert np.mean(signals) <= 0.02


def test_a_large_ranking_is_quick():
    random = np.random.default_rng(0)
    correct_NJ = answers(random.normal(size=50), 20_000, random)
    started = time.process_time()
    rank(candidates(correct_NJ), np.arange(20_000) % 100)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(("total", "share"), [(10, 0.8), (30, 0.9), (30, 0.95), (100, 0.98), (400, 0.5)])
def test_the_accuracy_interval_covers_the_truth_about_as_often_as_it_says(total, share):
    chances = [math.comb(total, right) * share**right * (1 - share) ** (total - right) for right in range(total + 1)]
    bounds = [wilson_interval(right, total, 0.9) for right in range(total + 1)]
    covered = sum(chance for chance, (low, high) in zip(chances, bounds, strict=True) if low <= share <= high)
    assert 0.86 < covered < 0.97


def test_near_duplicates_do_not_count_twice():
    random = np.random.default_rng(5)
    correct_NJ = answers([0.0, 0.9, 1.1], 60, random)
    labels_N = np.arange(60) % 3
    once = rank(candidates(correct_NJ), labels_N, replicates=4000)
    four_times = [np.repeat(array, 4, axis=0) for array in (correct_NJ, labels_N)]
    units_N = np.repeat(np.arange(60), 4)
    naive = rank(candidates(four_times[0]), four_times[1], replicates=4000)
    honest = rank(candidates(four_times[0]), four_times[1], replicates=4000, units_N=units_N)
    for model, plain in zip(honest.models, once.models, strict=True):
        assert model.probability_of_best == pytest.approx(plain.probability_of_best, abs=0.04)
    assert "60 units of near-duplicates" in honest.method
    assert naive.stability.top1_probability > honest.stability.top1_probability + 0.05


def test_the_first_k_places_are_shared_out():
    random = np.random.default_rng(6)
    ranking = rank(candidates(answers([0.0, 0.3, 0.4, 0.5, 2.0], 80, random)), np.arange(80) % 2, top_k=2)
    among = [model.probability_of_top_k for model in ranking.models]
    assert ranking.top_k == 2
    assert sum(among) == pytest.approx(2.0)
    assert among == sorted(among, reverse=True)
    assert all(model.probability_of_top_k >= model.probability_of_best for model in ranking.models)
    alike = rank(candidates(np.repeat(np.arange(80)[:, None] % 3 > 0, 4, axis=1)), np.arange(80) % 2, top_k=3)
    assert [model.probability_of_top_k for model in alike.models] == pytest.approx([0.75] * 4)
    assert rank(candidates(np.ones((8, 2), dtype=bool)), np.arange(8) % 2).top_k == 2


def test_near_duplicates_widen_the_standard_error_to_that_of_their_pictures():
    right_N = np.arange(200) % 10 < 8
    labels_N = np.arange(200) // 100
    one = Candidate(id="a", name="a", parameters=1, correct_N=right_N)
    alone = rank([one], labels_N, replicates=50).models[0].stderr
    together = rank([one], labels_N, replicates=50, units_N=np.arange(200) // 10).models[0].stderr
    assert together == pytest.approx(accuracy_stderr(0.8 * 20, 20))
    assert together > 3 * alone
