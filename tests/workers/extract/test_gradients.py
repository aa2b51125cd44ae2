"""One pass for gradients: batches, memory, stopping, refusals, and a network that is left as it was.

N images, P probes, S numbers of a sketch, D features
"""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from app.domain.errors import EvaluationFailed
from app.domain.interruption import Interrupted
from tests.workers.extract.gradient_cases import network_of, pictures, small_trunk
from tests.workers.extract.test_features import hungry
from workers.extract.features import extract
from workers.extract.gradients import GradientSketches, gradient_sketches, random_probes
from workers.extract.sketch import SketchSize
from workers.zoo.network import Network


@pytest.fixture(scope="module")
def network() -> Network:
    return network_of(small_trunk("test_efficientnet"))


def rows(found: GradientSketches) -> np.ndarray:
    return np.concatenate(found.layers, axis=2)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64])
def test_sketches_and_features_do_not_depend_on_the_batch_size(network: Network, batch_size: int) -> None:
    images, directions_DP = pictures(11), random_probes(network.feature_dim, 2)
    expected = rows(gradient_sketches(network, images, directions_DP, batch_size=11))
    done: list[int] = []
    found = gradient_sketches(network, iter(images), directions_DP, batch_size=batch_size, on_progress=done.append)
    np.testing.assert_allclose(rows(found), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    features_ND = extract(network, images, batch_size=11).features_ND
    np.testing.assert_allclose(found.features_ND, features_ND, rtol=0, atol=1e-5 * np.abs(features_ND).max())
    assert done[0] == min(4, (batch_size + 1) // 2), "the first part of a network of unknown speed is small"
    assert done == sorted(done)
    assert done[-1] == 11
    assert found.batch_size == batch_size
    assert set(found.seconds) == {"decode", "preprocess", "check", "forward", "backward", "wait", "total"}


def test_the_same_images_give_the_same_bits(network: Network) -> None:
    directions_DP = random_probes(network.feature_dim)
    first, second = (gradient_sketches(network, pictures(5), directions_DP, batch_size=4) for _ in range(2))
    np.testing.assert_array_equal(rows(first), rows(second))


def test_probes_depend_on_width_number_and_seed_alone() -> None:
    directions_DP = random_probes(400, 4)
    np.testing.assert_array_equal(random_probes(400, 2), directions_DP[:, :2])
    assert not np.array_equal(random_probes(400, 4, seed=1), directions_DP)
    assert directions_DP.shape == (400, 4)
    assert (directions_DP**2).sum(axis=0) == pytest.approx(1, abs=0.2)


def test_a_probe_is_the_sum_of_its_parts(network: Network) -> None:
    """Gradients are linear in the direction."""
    directions_DP = random_probes(network.feature_dim, 2)
    both_DP = np.concatenate([directions_DP, directions_DP.sum(axis=1, keepdims=True)], axis=1)
    found = rows(gradient_sketches(network, pictures(3), both_DP, batch_size=3))
    np.testing.assert_allclose(found[:, 2], found[:, 0] + found[:, 1], rtol=0, atol=1e-5 * np.abs(found).max())


def snapshot(network: Network) -> list[object]:
    state: list[object] = []
    for name, module in network.named_modules():
        state += [name, id(module), module.training, sorted(vars(module)), list(module._parameters)]
        state += [len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks)]
    for name, parameter in network.named_parameters():
        state += [name, id(parameter), parameter.requires_grad, parameter.grad is None, parameter._version]
    return state


@pytest.mark.parametrize("learning", [False, True])
def test_the_network_is_left_as_it_was(learning: bool) -> None:
    network = network_of(small_trunk("torchvision_vit"))
    network.requires_grad_(learning)
    before = snapshot(network)
    gradient_sketches(network, pictures(3), random_probes(16), batch_size=2)
    assert snapshot(network) == before
    broken = network_of(nn.Sequential(network.trunk, Failing()))
    broken.requires_grad_(learning)
    before = snapshot(broken)
    with pytest.raises(KeyError):
        gradient_sketches(broken, pictures(3), random_probes(16), batch_size=3)
    assert snapshot(broken) == before
    assert torch.overrides._get_current_function_mode() is None


class Failing(nn.Module):
    """Fails at the first batch of several images."""

    def forward(self, features_BD: Tensor) -> Tensor:
        if len(features_BD) > 1:
            raise KeyError("broken")
        return features_BD


def test_it_stops_between_two_batches(network: Network) -> None:
    done: list[int] = []
    endless = (image for _ in iter(int, 1) for image in pictures(2))
    with pytest.raises(Interrupted):
        gradient_sketches(
            network, endless, random_probes(network.feature_dim, 1), batch_size=4, on_progress=done.append,
            should_stop=lambda: len(done) == 2,
        )  # fmt: skip
    assert done == [2, 4], "a batch of four goes through in two parts"
    assert not any(thread.name == "pixel-batches" for thread in threading.enumerate())


def test_what_cannot_be_asked_for_is_refused(network: Network) -> None:
    directions_DP = random_probes(network.feature_dim, 1)
    with pytest.raises(ValueError, match="batch_size"):
        gradient_sketches(network, pictures(1), directions_DP, batch_size=0)
    with pytest.raises(ValueError, match="no images"):
        gradient_sketches(network, [], directions_DP, batch_size=1)
    with pytest.raises(ValueError, match="directions"):
        gradient_sketches(network, pictures(1), directions_DP[:, :0], batch_size=1)
    with pytest.raises(ValueError, match="directions"):
        gradient_sketches(network, pictures(1), directions_DP[1:], batch_size=1)
    with pytest.raises(ValueError, match="sketch"):
        SketchSize(0, 8)


class Power(nn.Module):
    """A power of each number's size: the square root is finite where its slope is not."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power

    def forward(self, batch_BD: Tensor) -> Tensor:
        return batch_BD.abs().pow(self.power)


@pytest.mark.parametrize(("power", "code"), [(0.5, "non_finite_gradient"), (-1, "non_finite_features")])
def test_what_is_not_finite_names_the_image(power: float, code: str) -> None:
    layer = nn.Linear(12, 4)
    nn.init.ones_(layer.weight)
    nn.init.constant_(layer.bias, 12.0)  # 0 for a black image, in pixels from -1 to 1
    network = network_of(nn.Sequential(nn.Flatten(), layer, Power(power)), 2)
    images = pictures(8, 2)
    images[5] = images[5].point(lambda _: 0)
    with pytest.raises(EvaluationFailed, match="image 5 ") as caught:
        gradient_sketches(network, images, random_probes(4, 2), batch_size=3)
    assert caught.value.code == code


STARVE = """
import resource, sys
from pathlib import Path

import numpy, torch

from app.domain.errors import EvaluationFailed
from tests.workers.extract.test_features import hungry, pictures
from workers.extract.gradients import gradient_sketches, random_probes
from workers.extract.part_size import PartSize

torch.set_num_threads(1)
small, large = hungry(224), hungry(1024)
gradient_sketches(small, pictures(1), random_probes(192, 2), batch_size=1)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 500 * 2**20,) * 2)
unhurried = PartSize(6, seconds=1000)
found = gradient_sketches(small, pictures(12), random_probes(192, 2), batch_size=12, part_size=unhurried)
print(found.batch_size)
numpy.save(sys.argv[1], numpy.concatenate(found.layers, axis=2))
try:
    gradient_sketches(large, pictures(2), random_probes(192, 2), batch_size=2)
except EvaluationFailed as error:
    print(error.code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space of a process")
def test_out_of_memory_halves_the_batch_and_goes_on(tmp_path: Path) -> None:
    # One activation of a small image takes 38 MB, of a large one 800; a pass holds several at once.
    from tests.workers.extract.test_features import pictures as photographs

    path = tmp_path / "sketches.npy"
    command = [sys.executable, "-c", STARVE, str(path)]
    batch_size, code = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(batch_size) in {2, 3, 6}
    assert code == "out_of_memory"
    expected = rows(gradient_sketches(hungry(224), photographs(12), random_probes(192, 2), batch_size=4))
    np.testing.assert_allclose(np.load(path), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 3), st.floats(0, 1e4))
def test_kernels_are_the_inner_products(seed: int, images: int, probes: int, common: float) -> None:
    """Against plain sums in float64, with a gradient that all images have in common."""
    random = np.random.default_rng(seed)
    layers = tuple(
        (random.standard_normal((images, probes, width)) + common).astype(np.float32) for width in (3, 5000, 1)
    )
    found = GradientSketches(np.zeros((images, 2), np.float32), layers, ("a", "b", "c"), 9, {}, 1)
    whole_NPS = np.concatenate(layers, axis=2).astype(np.float64)
    kernels, cross = found.kernels(), found.cross_kernel()
    for p in range(probes):
        own_NS, mean_S = whole_NPS[:, p], whole_NPS[:, p].mean(axis=0)
        for i in range(images):
            assert kernels.towards_mean_PN[p, i] == pytest.approx((own_NS[i] - mean_S) @ mean_S, rel=1e-6, abs=1e-3)
            for j in range(images):
                expected = (own_NS[i] - mean_S) @ (own_NS[j] - mean_S)
                assert kernels.centred_PNN[p, i, j] == pytest.approx(expected, rel=1e-9, abs=1e-9)
                for q in range(probes):
                    inner = own_NS[i] @ whole_NPS[j, q]
                    assert cross[i * probes + p, j * probes + q] == pytest.approx(inner, rel=1e-9, abs=1e-9)
        assert kernels.mean_square_P[p] == pytest.approx(mean_S @ mean_S, rel=1e-9)
    mean = kernels.mean()
    np.testing.assert_allclose(mean.centred_PNN[0], kernels.centred_PNN.mean(axis=0))
    np.testing.assert_allclose(mean.towards_mean_PN[0], kernels.towards_mean_PN.mean(axis=0))
    np.testing.assert_allclose(mean.mean_square_P, [kernels.mean_square_P.mean()])
