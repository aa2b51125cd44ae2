"""Training steps: equal to a plain loop, the same bits again, interrupted and gone on with, short of memory.

N images, B images of a batch
"""

import math
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from app.domain.finetuning import Recipe
from app.domain.interruption import Interrupted
from app.domain.model_spec import ModelSpec, Preprocessing
from tests.fixtures.weights import HALF
from tests.workers.finetune.conftest import pictures, store_of
from workers.finetune.batch_order import epoch_batches, flipped_images
from workers.finetune.checkpoint import Checkpoint
from workers.finetune.evaluation import evaluate
from workers.finetune.recording import Watched, train_recorded
from workers.finetune.training import Training, TrainingState
from workers.finetune.tuned_network import TunedNetwork
from workers.zoo.network import Network
from workers.zoo.preprocessing import Preprocessor

SHORT = Recipe(learning_rates=(0.01,), batch_size=6, epochs=3)
IMAGES, LABELS_N = pictures(20)
TRAIN_T = np.array([0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17])
REST = np.setdiff1d(np.arange(20), TRAIN_T)


def training_of(network: Network, recipe: Recipe = SHORT, *, rate: float = 0.01, memory: int = 2**30) -> Training:
    tuned = TunedNetwork.of(network, 3)
    return Training(tuned, store_of(network, IMAGES, memory_limit=memory), TRAIN_T, LABELS_N, recipe, rate)


def weights(training: Training) -> dict[str, torch.Tensor]:
    return training.state().tensors


def identical(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
@pytest.mark.parametrize(
    "recipe",
    [
        SHORT,
        replace(SHORT, loss="squared", momentum=0.0),
        replace(SHORT, batch_norm="live", nesterov=False, weight_decay=0.01, max_steps=4),
        replace(SHORT, augmentation="flip", schedule="constant", max_steps=8, seed=4),
    ],
    ids=["paper", "squared", "live", "flip"],
)
def test_equal_to_a_plain_loop(zoo: dict[str, tuple[ModelSpec, Network]], name: str, recipe: Recipe) -> None:
    """The same batches by hand: mean loss, torch's own layers, and Nesterov's momentum written out."""
    _, network = zoo[name]
    training = training_of(network, recipe)
    by_hand = TunedNetwork.of(network, 3)
    training.run()
    pixels_NHWC = torch.from_numpy(np.stack([network.preprocess.pixels(image) for image in IMAGES]))
    steps = recipe.steps(len(TRAIN_T))
    velocity = {key: torch.zeros_like(value) for key, value in by_hand.named_parameters()}
    losses = []
    for step in range(steps):
        epoch, number = divmod(step, 3)
        if recipe.batch_norm == "live":
            by_hand.train()
        places = epoch_batches(recipe, len(TRAIN_T), epoch)[number]
        chosen = TRAIN_T[places]
        mirrored = [
            pixels_NHWC[image].flip(1) if flipped_images(recipe, len(TRAIN_T), epoch)[place] else pixels_NHWC[image]
            for place, image in zip(places, chosen, strict=True)
        ]
        logits_BC = by_hand.head(by_hand.trunk((torch.stack(mirrored).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5))
        labels_B = torch.from_numpy(LABELS_N[chosen])
        if recipe.loss == "cross_entropy":
            loss = -torch.log_softmax(logits_BC, 1)[torch.arange(len(chosen)), labels_B].mean()
        else:
            loss = ((logits_BC - torch.eye(3)[labels_B]) ** 2).sum() / 2 / len(chosen)
        losses.append(float(loss.detach()))
        by_hand.zero_grad()
        loss.backward()
        rate = 0.01
        if recipe.schedule == "milestones":
            rate = [0.01, 0.001, 0.0001][(step >= steps / 2) + (step >= steps * 5 / 6)]
        with torch.no_grad():
            for key, value in by_hand.named_parameters():
                gradient = value.grad + recipe.weight_decay * value
                velocity[key] = recipe.momentum * velocity[key] + gradient
                ahead = gradient + recipe.momentum * velocity[key]
                value -= rate * (ahead if recipe.nesterov and recipe.momentum else velocity[key])
    assert training.verdict == "trained"
    assert training.curves.batch_losses == pytest.approx(losses, abs=1e-5)
    for key, value in by_hand.state_dict().items():
        found = training.network.state_dict()[key]
        assert torch.allclose(found.float(), value.float(), atol=1e-6, rtol=1e-5), key


def test_the_first_loss_is_log_c_and_the_trunk_is_trained(network: Network) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    training = training_of(network)
    training.run()
    assert training.curves.batch_losses[0] == pytest.approx(math.log(3), abs=1e-6)
    assert all(parameter.requires_grad for parameter in training.network.parameters())
    moved = [
        name
        for name, value in training.network.trunk.named_parameters()
        if not torch.equal(value, before[f"trunk.{name}"])
    ]
    assert len(moved) == len(list(training.network.trunk.parameters()))
    assert identical(before, dict(network.state_dict()))


def test_frozen_statistics_stay_and_live_ones_move(network: Network) -> None:
    def statistics(training: Training) -> dict[str, torch.Tensor]:
        return {name: value for name, value in weights(training).items() if "running_mean" in name}

    for recipe, same in ((SHORT, True), (replace(SHORT, batch_norm="live"), False)):
        training = training_of(network, recipe)
        before = statistics(training)
        assert before
        training.run(4)
        assert identical(before, statistics(training)) is same


def test_every_epoch_sees_every_image_once_in_a_new_order() -> None:
    epochs = [epoch_batches(SHORT, 20, epoch) for epoch in range(3)]
    for batches in epochs:
        assert sorted(np.concatenate(batches).tolist()) == list(range(20))
        assert [len(batch) for batch in batches] == [6, 6, 6, 2]
        assert all((np.diff(batch) > 0).all() for batch in batches)
    assert epochs[0][0].tolist() != epochs[1][0].tolist()
    assert epochs[0][0].tolist() != epoch_batches(replace(SHORT, seed=1), 20, 0)[0].tolist()
    live = epoch_batches(replace(SHORT, batch_norm="live"), 19, 0)
    assert [len(batch) for batch in live] == [6, 6, 6]


def test_about_half_of_the_images_are_flipped_and_others_the_next_time() -> None:
    recipe = replace(SHORT, augmentation="flip")
    first, second = flipped_images(recipe, 400, 0), flipped_images(recipe, 400, 1)
    assert 150 < first.sum() < 250
    assert 150 < (first != second).sum() < 250
    assert not flipped_images(SHORT, 400, 0).any()


def test_the_same_seed_gives_the_same_bits_and_pixels_in_a_file_too(network: Network) -> None:
    recipe = replace(SHORT, augmentation="flip")
    first, again, from_file = (
        training_of(network, recipe),
        training_of(network, recipe),
        training_of(network, recipe, memory=1000),
    )
    for training in (first, again, from_file):
        training.run()
    assert not from_file._store.in_memory
    assert identical(weights(first), weights(again))
    assert identical(weights(first), weights(from_file))
    assert first.curves == from_file.curves
    other = training_of(network, replace(recipe, seed=1))
    other.run()
    assert not identical(weights(first), weights(other))


def test_the_steps_done_before_a_stop_stay_done(network: Network) -> None:
    training = training_of(network)
    calls = count()
    with pytest.raises(Interrupted, match="2 of 9 steps"):
        training.run(should_stop=lambda: next(calls) == 2)
    assert training.step == 2


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 8])
def test_an_interrupted_training_goes_on_with_the_same_bits(network: Network, tmp_path: Path, stop: int) -> None:
    """Also in the middle of an epoch (of three steps) and before its first step."""
    recipe = replace(SHORT, augmentation="flip", batch_norm="live")
    whole, part = training_of(network, recipe), training_of(network, recipe)
    watched = Watched(whole._store, LABELS_N, TRAIN_T, REST, every=2)
    train_recorded(whole, watched)
    checkpoint = Checkpoint(tmp_path / "state.safetensors", "key")
    with pytest.raises(Interrupted):
        train_recorded(part, watched, should_stop=lambda: part.step == stop, save=checkpoint.save)
    saved = checkpoint.load()
    assert saved is not None
    assert (saved.progress["step"], saved.progress["epoch"]) == (stop, stop // 3)
    later = training_of(network, recipe)
    later.restore(saved)
    train_recorded(later, watched)
    assert identical(weights(whole), weights(later))
    assert whole.curves == later.curves
    assert later.verdict == "trained"


def test_points_are_what_an_evaluation_finds(network: Network) -> None:
    training = training_of(network)
    watched = Watched(training._store, LABELS_N, TRAIN_T, REST, every=2)
    steps: list[int] = []
    train_recorded(training, watched, on_step=steps.append)
    assert steps == list(range(1, 10))
    points = training.curves.points
    assert [point.step for point in points] == [0, 2, 3, 4, 6, 8, 9]
    assert len(training.curves.batch_losses) == 9
    training.network.eval()
    for part, loss, accuracy in zip(
        (TRAIN_T, REST),
        (points[-1].train_loss, points[-1].validation_loss),
        (points[-1].train_accuracy, points[-1].validation_accuracy),
        strict=True,
    ):
        pixels_BHWC = torch.from_numpy(np.stack([network.preprocess.pixels(IMAGES[image]) for image in part]))
        with torch.inference_mode():
            logits_BC = training.network(pixels_BHWC)
        labels_B = torch.from_numpy(LABELS_N[part])
        assert loss == pytest.approx(float(nn.functional.cross_entropy(logits_BC, labels_B)), abs=1e-5)
        assert accuracy == (logits_BC.argmax(1) == labels_B).numpy().mean()


def test_states_are_saved_again_and_again(network: Network) -> None:
    training = training_of(network)
    saved: list[TrainingState] = []
    train_recorded(training, Watched(training._store, LABELS_N, TRAIN_T, REST), save=saved.append, save_every=0.0)
    assert [state.progress["step"] for state in saved] == list(range(1, 10))
    rarely: list[TrainingState] = []
    again = training_of(network)
    train_recorded(again, Watched(again._store, LABELS_N, TRAIN_T, REST), save=rarely.append, save_every=60.0)
    assert rarely == []


def test_a_loss_that_is_no_number_is_a_verdict(network: Network) -> None:
    training = training_of(network, rate=1e30)
    train_recorded(training, Watched(training._store, LABELS_N, TRAIN_T, REST))
    assert training.verdict == "diverged"
    assert training.step < training.steps
    assert all(math.isfinite(loss) for loss in training.curves.batch_losses)
    assert all(math.isfinite(point.train_loss) for point in training.curves.points)


def test_parts_give_the_gradient_of_the_batch(network: Network) -> None:
    training = training_of(network)
    pixels_BHWC = torch.from_numpy(np.stack([network.preprocess.pixels(image) for image in IMAGES[:6]]))
    labels_B = torch.from_numpy(LABELS_N[:6])
    torch.nn.init.normal_(training.network.head.weight, generator=torch.Generator().manual_seed(0))
    gradients = []
    for part in (6, 4, 1):
        loss = training._gradient(pixels_BHWC, labels_B, part)
        gradients.append([parameter.grad.clone() for parameter in training.network.parameters()])
        assert loss == pytest.approx(training._gradient(pixels_BHWC, labels_B, 6), rel=1e-5)
    for in_parts in gradients[1:]:
        for whole, summed in zip(gradients[0], in_parts, strict=True):
            assert torch.allclose(whole, summed, atol=1e-5 * float(whole.abs().max()), rtol=1e-4)


def hungry(side: int) -> Network:
    """A network whose activations take 64 times the memory of its input."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 192, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    steps = Preprocessing(resize=side, crop=(side, side), interpolation="bilinear", mean=HALF, std=HALF)
    return Network(trunk, None, Preprocessor(steps))


def hungry_training(side: int, recipe: Recipe, count: int = 32) -> Training:
    images, labels_N = pictures(count)
    network = hungry(side)
    store = store_of(network, images)
    return Training(TunedNetwork.of(network, 3), store, np.arange(count), labels_N, recipe, 0.1)


HUNGRY = Recipe(batch_size=16, epochs=1)
STARVE = """
import resource, sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from app.domain.errors import EvaluationFailed
from tests.workers.finetune.test_training import HUNGRY, hungry_training

torch.set_num_threads(1)
small, large = hungry_training(96, HUNGRY), hungry_training(768, HUNGRY, 2)
hungry_training(16, HUNGRY).run()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
small.run()
print(small.fitting)
save_file(small.state().tensors, sys.argv[1])
try:
    large.run()
except EvaluationFailed as error:
    print(error.code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space of a process")
def test_out_of_memory_halves_the_parts_and_trains_the_same(tmp_path: Path) -> None:
    # An activation of 16 small images takes 110 MB, and a step holds several; one of a large image 450.
    path = tmp_path / "state.safetensors"
    command = [sys.executable, "-c", STARVE, str(path)]
    fitting, code = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(fitting) in {1, 2, 4, 8}
    assert code == "out_of_memory"
    expected = hungry_training(96, HUNGRY)
    expected.fitting = 2
    expected.run()
    for name, value in load_file(path).items():
        assert torch.allclose(value, weights(expected)[name], atol=1e-6, rtol=1e-3), name


def test_evaluation_stops_when_told(network: Network) -> None:
    training = training_of(network)
    with pytest.raises(Interrupted):
        evaluate(training.network, training._store, TRAIN_T, LABELS_N, "squared", should_stop=lambda: True)
