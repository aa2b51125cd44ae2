"""One pass over images: order, determinism, overlap, stopping, running out of memory.

N images, D features, Z source classes
"""

import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, UnidentifiedImageError
from torch import nn

from app.domain.errors import EvaluationFailed
from app.domain.interruption import Interrupted
from app.domain.model_spec import Preprocessing
from tests.fixtures.weights import HALF, small_spec
from workers.extract.features import extract
from workers.zoo.network import Network, load_network
from workers.zoo.preprocessing import Preprocessor
from workers.zoo.sources import cached_weights


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    folder = tmp_path_factory.mktemp("weights")
    spec = small_spec(folder, side=48)
    return load_network(spec, cached_weights(spec.source, folder / "cache"))


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40 + n % 7, 50 + n % 5, 3), dtype=np.uint8)) for n in range(count)]


def one_by_one(network: Network, images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """The obvious way: every image through the network on its own."""
    features, logits = [], []
    with torch.inference_mode():
        for image in images:
            features_1D, logits_1Z = network(network.preprocess(torch.tensor(network.preprocess.pixels(image))[None]))
            features.append(features_1D[0].numpy())
            logits.append(logits_1Z[0].numpy())
    return np.stack(features), np.stack(logits)


def same(first: np.ndarray, second: np.ndarray) -> bool:
    return bool(np.abs(first - second).max() <= 1e-5 * np.abs(second).max())


def no_threads_left() -> bool:
    return not any(thread.name.startswith("pixel-") for thread in threading.enumerate())


@pytest.mark.parametrize("batch_size", [1, 4, 7, 23, 64])
def test_features_and_logits_do_not_depend_on_the_batch_size(network: Network, batch_size: int) -> None:
    images = pictures(23)
    features_ND, logits_NZ = one_by_one(network, images)
    done: list[int] = []
    found = extract(network, iter(images), batch_size=batch_size, on_progress=done.append)
    assert found.features_ND.dtype == np.float32
    assert found.logits_NZ is not None
    assert same(found.features_ND, features_ND)
    assert same(found.logits_NZ, logits_NZ)
    assert done[0] == min(4, batch_size), "the first part of a network of unknown speed is small"
    assert done == sorted(done)
    assert done[-1] == 23
    assert found.batch_size == batch_size
    assert set(found.seconds) == {"decode", "preprocess", "forward", "wait", "total"}
    assert no_threads_left()


def test_the_same_images_give_the_same_bits(network: Network) -> None:
    images = pictures(10)
    first, second = (extract(network, images, batch_size=4) for _ in range(2))
    np.testing.assert_array_equal(first.features_ND, second.features_ND)
    np.testing.assert_array_equal(first.logits_NZ, second.logits_NZ)


def test_images_are_decoded_in_the_background_and_not_far_ahead(network: Network) -> None:
    """A lazily opened file counts as decoded only once its pixels are read."""
    blobs = []
    for image in pictures(40):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        blobs.append(buffer)
    threads, opened, ahead = set(), 0, []

    def lazily() -> Iterator[Image.Image]:
        nonlocal opened
        for blob in blobs:
            threads.add(threading.current_thread().name)
            opened += 1
            yield Image.open(blob)

    def slow(done: int) -> None:
        time.sleep(0.02)
        ahead.append(opened - done)

    found = extract(network, lazily(), batch_size=4, on_progress=slow)
    assert same(found.features_ND, one_by_one(network, pictures(40))[0])
    assert threads == {"pixel-batches"}
    assert 0 < max(ahead) <= 4 * 4
    assert found.seconds["decode"] > 0


def files(images: list[Image.Image]) -> Iterator[bytes]:
    """Give the images as a data set keeps them."""
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        yield buffer.getvalue()


@pytest.mark.parametrize("threads", [1, 3])
def test_files_are_decoded_by_several_threads_in_order(network: Network, threads: int) -> None:
    seen = set()

    def watched() -> Iterator[bytes]:
        for number, file in enumerate(files(pictures(60))):
            if number > 50:
                seen.update(thread.name for thread in threading.enumerate())
            yield file

    found = extract(network, watched(), batch_size=7, decode_threads=threads)
    assert same(found.features_ND, extract(network, pictures(60), batch_size=7).features_ND)
    assert sum(name.startswith("pixel-decoder") for name in seen) == (threads if threads > 1 else 0)
    assert found.seconds["decode"] > 0
    assert no_threads_left()


def test_several_threads_do_not_run_far_ahead_and_stop_at_once(network: Network) -> None:
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            yield from list(files(pictures(2)))
            read += 2

    done: list[int] = []
    with pytest.raises(Interrupted):
        extract(
            network,
            endless(),
            batch_size=4,
            decode_threads=3,
            on_progress=done.append,
            should_stop=lambda: len(done) == 5,
        )
    assert read <= 20 + 4 * 4 + 4 * 3 + 2, "batches that wait, images that are begun, and the pair that is read"
    assert no_threads_left()


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_broken_image_is_what_is_told(network: Network, threads: int) -> None:
    """Whoever meets theirs first in time: a broken file far behind, and a source that ends with an error."""

    def images() -> Iterator[bytes]:
        good = list(files(pictures(6)))
        yield from [*good[:5], b"the first", good[5], b"the second"]
        raise OSError("the source")

    with pytest.raises(UnidentifiedImageError):
        extract(network, images(), batch_size=2, decode_threads=threads)

    def source_breaks() -> Iterator[bytes]:
        yield from files(pictures(3))
        raise OSError("the source")

    done: list[int] = []
    with pytest.raises(OSError, match="the source"):
        extract(network, source_breaks(), batch_size=1, decode_threads=threads, on_progress=done.append)
    assert done == [1, 2, 3], "what came before it went through"
    assert no_threads_left()


def test_no_images_give_empty_arrays_of_the_right_width(network: Network) -> None:
    found = extract(network, [], batch_size=4)
    assert found.features_ND.shape == (0, network.feature_dim)
    assert found.logits_NZ is not None
    assert found.logits_NZ.shape == (0, 10)


def test_a_network_without_head_gives_no_logits(tmp_path: Path) -> None:
    spec = small_spec(tmp_path, classes=None)
    network = load_network(spec, cached_weights(spec.source, tmp_path / "cache"))
    assert extract(network, pictures(3), batch_size=2).logits_NZ is None
    assert extract(network, [], batch_size=2).logits_NZ is None


def test_it_stops_between_two_batches(network: Network) -> None:
    done: list[int] = []
    endless = (image for _ in iter(int, 1) for image in pictures(2))
    with pytest.raises(Interrupted):
        extract(network, endless, batch_size=4, on_progress=done.append, should_stop=lambda: len(done) == 3)
    assert done == [4, 8, 12]
    assert no_threads_left()


def test_what_decoding_raises_is_raised_here(network: Network) -> None:
    def images() -> Iterator[Image.Image]:
        yield from pictures(5)
        raise OSError("truncated")

    with pytest.raises(OSError, match="truncated"):
        extract(network, images(), batch_size=2)
    with pytest.raises(ValueError, match="mode L"):
        extract(network, [Image.new("L", (9, 9))], batch_size=2)
    assert no_threads_left()


def test_what_progress_raises_ends_the_pass(network: Network) -> None:
    def on_progress(done: int) -> None:
        raise KeyError(done)

    with pytest.raises(KeyError):
        extract(network, pictures(50), batch_size=2, on_progress=on_progress)
    assert no_threads_left()


def test_batches_of_nothing_are_refused(network: Network) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        extract(network, [], batch_size=0)


class Reciprocal(nn.Module):
    """Infinite for an image that holds a black pixel."""

    def forward(self, batch_BCHW: torch.Tensor) -> torch.Tensor:
        return 1 / batch_BCHW.flatten(1)


def test_features_that_are_not_finite_name_the_image() -> None:
    steps = Preprocessing(resize=4, crop=(4, 4), interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
    network = Network(Reciprocal(), None, Preprocessor(steps))
    images = [Image.new("RGB", (4, 4), (255, 255, 255 if n != 5 else 0)) for n in range(8)]
    with pytest.raises(EvaluationFailed, match="image 5 ") as caught:
        extract(network, images, batch_size=3)
    assert caught.value.code == "non_finite_features"


def hungry(side: int) -> Network:
    """A network whose activations take 64 times the memory of its input."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 192, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    steps = Preprocessing(resize=side, crop=(side, side), interpolation="bilinear", mean=HALF, std=HALF)
    return Network(trunk, None, Preprocessor(steps))


STARVE = """
import resource, sys
from pathlib import Path

import numpy, torch

from app.domain.errors import EvaluationFailed
from tests.workers.extract.test_features import hungry, pictures
from workers.extract.features import extract
from workers.extract.part_size import PartSize

torch.set_num_threads(1)
small, large = hungry(224), hungry(1024)
extract(small, pictures(1), batch_size=1)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 500 * 2**20,) * 2)
found = extract(small, pictures(24), batch_size=16, part_size=PartSize(16, seconds=1000))
print(found.batch_size)
numpy.save(sys.argv[1], found.features_ND)
try:
    extract(large, pictures(2), batch_size=2)
except EvaluationFailed as error:
    print(error.code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space of a process")
def test_out_of_memory_halves_the_batch_and_goes_on(tmp_path: Path) -> None:
    # One activation of 16 small images takes 600 MB, of 8 images 300, of 4 images 150; of one large image 800.
    path = tmp_path / "features.npy"
    command = [sys.executable, "-c", STARVE, str(path)]
    batch_size, code = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(batch_size) in {2, 3, 4, 6, 8}
    assert code == "out_of_memory"
    expected = extract(hungry(224), pictures(24), batch_size=2)
    assert same(np.load(path), expected.features_ND)
