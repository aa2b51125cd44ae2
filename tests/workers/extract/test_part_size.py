"""How many images go through at once: what fits, and what is done soon."""

from itertools import pairwise

import pytest
import torch
from PIL import Image
from torch import nn

from app.domain.interruption import Interrupted
from app.domain.model_spec import Preprocessing
from tests.fixtures.weights import HALF
from tests.workers.extract.test_features import pictures
from workers.extract.features import extract
from workers.extract.gradients import gradient_sketches, random_probes
from workers.extract.part_size import PartSize, PartSizes
from workers.zoo.network import Network
from workers.zoo.preprocessing import Preprocessor


def test_a_slow_network_gets_parts_that_are_done_in_time() -> None:
    size = PartSize(32, seconds=2)
    assert size.images == 4
    size.took(4, 8.0)
    assert size.images == 1
    size.took(1, 0.2)
    assert size.images == 8, "ten fit into two seconds; sizes are halves of the batch"
    size.took(8, 0.1)
    assert size.images == 32


def test_what_did_not_fit_is_not_tried_again() -> None:
    size = PartSize(32)
    size.took(4, 0.001)
    assert size.does_not_fit(32)
    assert (size.images, size.fitting) == (16, 16)
    assert size.does_not_fit(5), "the end of a batch is smaller, and what does not fit either"
    assert size.images == 2
    assert size.does_not_fit(2)
    assert not size.does_not_fit(1)


def test_sizes_are_kept_for_the_next_data_set_of_the_same_model() -> None:
    sizes = PartSizes()
    sizes.of("model", "features", 32).does_not_fit(32)
    assert sizes.of("model", "features", 32).fitting == 16
    assert sizes.of("model", "gradients", 8).fitting == 8
    assert sizes.of("other", "features", 32).fitting == 32
    with pytest.raises(ValueError, match="batch_size"):
        PartSize(0)


class Slow(nn.Module):
    """Computes an image in as many seconds as its clock is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 2))
        self.seen: list[int] = []

    def forward(self, batch_BCHW: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(batch_BCHW))
        return batch_BCHW.mean((2, 3)) @ self.weight


class Clocked(PartSize):
    """Is told that every image takes a second and a half."""

    def took(self, images: int, seconds: float) -> None:
        super().took(images, 1.5 * images)


def slow_network() -> tuple[Network, Slow]:
    trunk = Slow()
    steps = Preprocessing(resize=8, crop=(8, 8), interpolation="bilinear", mean=HALF, std=HALF)
    return Network(trunk, None, Preprocessor(steps)), trunk


def test_a_slow_pass_is_asked_to_stop_image_by_image() -> None:
    network, trunk = slow_network()
    done: list[int] = []
    with pytest.raises(Interrupted, match="after 7 images"):
        extract(
            network,
            pictures(40),
            batch_size=32,
            part_size=Clocked(32),
            on_progress=done.append,
            should_stop=lambda: done[-1:] == [7],
        )
    assert trunk.seen == [4, 1, 1, 1]
    assert all(later - earlier <= 4 for earlier, later in pairwise(done))


def test_a_slow_backward_pass_is_asked_to_stop_too() -> None:
    network, _ = slow_network()
    done: list[int] = []
    with pytest.raises(Interrupted, match="after 5 images"):
        gradient_sketches(
            network,
            pictures(40),
            random_probes(2, 1),
            batch_size=32,
            part_size=Clocked(16),
            on_progress=done.append,
            should_stop=lambda: done[-1:] == [5],
        )
    assert done == [4, 5]


def test_a_fast_network_gets_whole_batches() -> None:
    network, trunk = slow_network()
    size = PartSize(16)
    images = [Image.new("RGB", (8, 8), (n, 0, 0)) for n in range(40)]
    for expected in ([4, 12, 16, 8], [16, 16, 8]):
        trunk.seen.clear()
        extract(network, images, batch_size=16, part_size=size)
        assert trunk.seen == expected
