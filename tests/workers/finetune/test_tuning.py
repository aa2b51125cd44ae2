"""The choice of the learning rate, the test, seeds, and going on after an interruption anywhere."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from app.domain.finetuning import Recipe
from app.domain.interruption import Interrupted
from workers.finetune.checkpoint import Checkpoint
from workers.finetune.evaluation import evaluate
from workers.finetune.training import Training
from workers.finetune.tuned_network import TunedNetwork
from workers.finetune.tuning import Images, Trial, Tuned, Watch, tune, tune_seeds
from workers.zoo.network import Network

RECIPE = Recipe(learning_rates=(0.02, 0.001, 1e-9), batch_size=8, epochs=2)


def same(first: Tuned, second: Tuned) -> bool:
    assert first.weights is not None
    assert second.weights is not None
    equal = all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
    return equal and json.dumps(first.as_dict()) == json.dumps(second.as_dict())


def test_the_best_on_the_validation_split_is_tested(network: Network, tuning_images: Images) -> None:
    tuned = tune(network, tuning_images, RECIPE)
    steps = RECIPE.steps(len(tuning_images.split.train_T))
    assert [trial.steps for trial in tuned.trials] == [steps] * 3
    expected = []
    for rate in RECIPE.learning_rates:
        by_hand = TunedNetwork.of(network, 3)
        split, labels_N = tuning_images.split, tuning_images.labels_N
        Training(by_hand, tuning_images.store, split.train_T, labels_N, RECIPE, rate).run()
        validation = evaluate(by_hand, tuning_images.store, split.validation_V, labels_N, "cross_entropy")
        test = evaluate(by_hand, tuning_images.store, split.test_S, labels_N, "cross_entropy")
        expected.append((-validation.accuracy, validation.loss, rate, test, by_hand.state_dict()))
    best = min(expected, key=lambda found: found[:3])
    for trial, (negative_accuracy, loss, rate, _, _) in zip(tuned.trials, expected, strict=True):
        assert (trial.learning_rate, trial.validation_accuracy) == (rate, -negative_accuracy)
        assert trial.validation_loss == pytest.approx(loss, rel=1e-6)
    assert tuned.learning_rate == best[2]
    assert tuned.verdict == "trained"
    assert tuned.correct_S is not None
    assert (tuned.correct_S == best[3].correct_E).all()
    assert tuned.weights is not None
    assert all(torch.equal(tuned.weights[name], value) for name, value in best[4].items())
    low, high = tuned.interval or (1, 0)
    assert low < best[3].accuracy <= high
    assert json.loads(json.dumps(tuned.as_dict()))["test_accuracy"] == best[3].accuracy


def test_ties_go_to_the_lower_loss_then_to_the_smaller_rate() -> None:
    trials = [
        Trial(0.3, "diverged", 4, None, None),
        Trial(0.01, "trained", 4, 0.5, 0.9),
        Trial(0.02, "trained", 4, 0.4, 0.9),
        Trial(0.001, "trained", 4, 0.4, 0.9),
        Trial(0.1, "trained", 4, 0.1, 0.8),
    ]
    ordered = sorted(trials, key=lambda trial: trial.order)
    assert [trial.learning_rate for trial in ordered] == [0.001, 0.02, 0.01, 0.1, 0.3]


def test_shorter_trials_and_the_best_goes_on(network: Network, tuning_images: Images) -> None:
    told: list[tuple[int, int]] = []
    watch = Watch(on_progress=lambda done, of: told.append((done, of)))
    tuned = tune(network, tuning_images, RECIPE, trial_share=0.5, watch=watch)
    steps = RECIPE.steps(len(tuning_images.split.train_T))
    assert [trial.steps for trial in tuned.trials] == [steps // 2] * 3
    assert tuned.learning_rate is not None
    assert [done for done, _ in told] == list(range(1, 2 * steps + 1))
    assert {of for _, of in told} == {2 * steps}
    whole = tune(network, tuning_images, replace(RECIPE, learning_rates=(tuned.learning_rate,)))
    assert tuned.weights is not None
    assert whole.weights is not None
    assert all(torch.equal(tuned.weights[name], value) for name, value in whole.weights.items())
    assert tuned.curves is not None
    assert whole.curves is not None
    assert tuned.curves.batch_losses == whole.curves.batch_losses


def test_rates_that_diverge_are_passed_over(network: Network, tuning_images: Images) -> None:
    recipe = replace(RECIPE, learning_rates=(1e30, 0.001))
    tuned = tune(network, tuning_images, recipe)
    assert [trial.verdict for trial in tuned.trials] == ["diverged", "trained"]
    assert tuned.learning_rate == 0.001
    nothing = tune(network, tuning_images, replace(RECIPE, learning_rates=(1e30,)))
    assert nothing.verdict == "diverged"
    assert nothing.test_accuracy is None
    assert nothing.interval is None
    assert json.loads(json.dumps(nothing.as_dict()))["learning_rate"] is None


def test_a_loss_that_does_not_fall_is_stuck(network: Network, tuning_images: Images) -> None:
    # One step far too large throws the outputs beyond their labels.
    tuned = tune(network, tuning_images, replace(RECIPE, learning_rates=(1.0,), loss="squared", max_steps=1))
    assert tuned.verdict == "stuck"
    assert tuned.test_accuracy is not None


@pytest.mark.parametrize(("share", "stop"), [(1.0, 3), (1.0, 8), (1.0, 22), (0.5, 6), (0.5, 14)])
def test_an_interrupted_tuning_goes_on_with_the_same_bits(
    network: Network, tuning_images: Images, tmp_path: Path, share: float, stop: int
) -> None:
    """In the first trial, between two, in a later one, and (of shorter trials) in what the best goes on with."""
    whole = tune(network, tuning_images, RECIPE, trial_share=share)
    done = 0

    def count(step: int, _: int) -> None:
        nonlocal done
        done = step

    checkpoint = Checkpoint(tmp_path / "state.safetensors", "work")
    total = 2 * 8 if share == 0.5 else 3 * 8
    watch = Watch(on_progress=count, should_stop=lambda: done == stop, checkpoint=checkpoint)
    with pytest.raises(Interrupted):
        tune(network, tuning_images, RECIPE, trial_share=share, watch=watch)
    assert done == stop
    resumed: list[int] = []
    again = Watch(on_progress=lambda step, _: resumed.append(step), checkpoint=checkpoint)
    later = tune(network, tuning_images, RECIPE, trial_share=share, watch=again)
    assert resumed == list(range(stop + 1, total + 1))
    assert same(whole, later)


def test_seeds_repeat_the_whole_choice(network: Network, tuning_images: Images, tmp_path: Path) -> None:
    recipe = replace(RECIPE, learning_rates=(0.01,))
    runs = tune_seeds(
        network,
        tuning_images,
        recipe,
        [0, 1],
        watch_of=lambda seed: Watch(checkpoint=Checkpoint(tmp_path / f"{seed}.safetensors", str(seed))),
    )
    assert [run.seed for run in runs] == [0, 1]
    assert same(runs[1], tune(network, tuning_images, replace(recipe, seed=1)))
    assert runs[0].weights is not None
    assert runs[1].weights is not None
    assert not torch.equal(runs[0].weights["head.weight"], runs[1].weights["head.weight"])


def test_trial_share_must_be_a_share(network: Network, tuning_images: Images) -> None:
    with pytest.raises(ValueError, match="trial_share"):
        tune(network, tuning_images, RECIPE, trial_share=0)


def test_the_network_keeps_its_weights(network: Network, tuning_images: Images) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    tune(network, tuning_images, replace(RECIPE, learning_rates=(0.01,), batch_norm="live"))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_only_the_test_split_measures(network: Network, tuning_images: Images) -> None:
    """Other classes for the test images change the test accuracy and nothing else."""
    labels_N = tuning_images.labels_N.copy()
    labels_N[tuning_images.split.test_S] = (labels_N[tuning_images.split.test_S] + 1) % 3
    recipe = replace(RECIPE, learning_rates=(0.02, 0.001))
    first = tune(network, tuning_images, recipe)
    second = tune(network, replace(tuning_images, labels_N=labels_N), recipe)
    assert first.trials == second.trials
    assert first.weights is not None
    assert second.weights is not None
    assert all(torch.equal(first.weights[name], value) for name, value in second.weights.items())
    assert first.correct_S is not None
    assert not np.array_equal(first.correct_S, second.correct_S)
