"""Memory and speed of forward passes: against the allocator's own records, and where memory or time is short.

B images of a batch
"""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from app.domain.errors import ModelRejected
from app.domain.model_spec import Preprocessing
from tests.fixtures.weights import HALF
from workers.zoo import device_cost
from workers.zoo.check_log import Finding
from workers.zoo.device_cost import describe, measure, peak_bytes
from workers.zoo.live_memory import LiveMemory
from workers.zoo.network import Network
from workers.zoo.preprocessing import Preprocessor

SIDE = 16


def network(trunk: nn.Module, side: int = SIDE) -> Network:
    steps = Preprocessing(resize=side, crop=(side, side), interpolation="bilinear", mean=HALF, std=HALF)
    whole = Network(trunk.eval(), None, Preprocessor(steps)).requires_grad_(False)
    return whole.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def allocated_at_most(module: nn.Module, batch_BCHW: Tensor) -> int:
    """Return the most that PyTorch's CPU allocator had handed out at once, by its own records."""
    with torch.inference_mode():
        module(batch_BCHW)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
            module(batch_BCHW)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext", "resnet18"])
def test_memory_is_what_the_allocator_hands_out(architecture: str) -> None:
    side = 160 if architecture == "test_vit" else 224
    module = network(timm.create_model(architecture, num_classes=0), side)
    batch_BCHW = torch.randn(4, 3, side, side).contiguous(memory_format=torch.channels_last)
    found = peak_bytes(module, batch_BCHW)
    # The batch is made before the profiler begins.
    assert found == pytest.approx(allocated_at_most(module, batch_BCHW) + batch_BCHW.nbytes, rel=1e-3)
    assert device_cost._foreseen(module, batch_BCHW, [4]) == {4: found}


def test_views_and_weights_count_nothing_and_what_is_gone_no_more() -> None:
    weight = torch.randn(10, 10)
    memory = LiveMemory([weight])
    with memory:
        turned = weight.t()
        made = torch.ones(1000)
        assert memory.live_bytes == 4000
        row = made[:10]
        del made
        assert memory.live_bytes == 4000, "its storage is still in use"
        row += 1
        del row
        assert memory.live_bytes == 0
    assert memory.peak_bytes == 4000
    assert turned.shape == (10, 10)


class Bounded(nn.Module):
    """Takes so many images and no more, as a GPU's memory would have it."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.dense = nn.Linear(3 * SIDE * SIDE, 4)

    def forward(self, batch_BCHW: Tensor) -> Tensor:
        if len(batch_BCHW) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        features_BD: Tensor = self.dense(batch_BCHW.flatten(1))
        return features_BD


@pytest.fixture
def photos_BCHW() -> Tensor:
    return torch.randn(6, 3, SIDE, SIDE)


@pytest.mark.parametrize(("most", "fits"), [(1, 1), (3, 3), (8, 8), (11, 11), (21, {20, 21}), (31, {29, 30, 31})])
def test_the_largest_batch_that_fits_is_found(most: int, fits: int | set[int], photos_BCHW: Tensor) -> None:
    cost = measure(network(Bounded(most)), photos_BCHW)
    assert cost.largest_batch in (fits if isinstance(fits, set) else {fits})
    assert all(size <= most for size in cost.peak_bytes)
    assert cost.out_of_memory_at is not None
    finding = Finding()
    describe(cost, finding)
    assert (finding.outcome, finding.code) == ("warn", "out_of_memory")
    assert f"at most {cost.largest_batch} " in (finding.hint or "")
    assert finding.figures["largest_batch"] == cost.largest_batch


def test_not_even_one_image_is_an_error(photos_BCHW: Tensor) -> None:
    with pytest.raises(ModelRejected) as caught:
        measure(network(Bounded(0)), photos_BCHW)
    assert caught.value.code == "out_of_memory"
    assert caught.value.hint


def test_other_errors_are_not_taken_for_a_lack_of_memory(photos_BCHW: Tensor) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        measure(network(Bounded(100)), photos_BCHW[:, :2])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_cost, "_LONGEST_PASS_SECONDS", 0.0)


@pytest.mark.usefixtures("impatient")
def test_batches_that_take_too_long_are_not_timed_but_their_memory_is_known(photos_BCHW: Tensor) -> None:
    trunk = network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    cost = measure(trunk, photos_BCHW)
    assert list(cost.images_per_second) == [1]
    assert cost.too_slow_at == 8
    assert cost.peak_bytes == {size: size * cost.peak_bytes[1] for size in (1, 8, 32)}
    finding = Finding()
    describe(cost, finding)
    assert finding.outcome == "pass"
    assert "8 images at once would take too long" in finding.detail


def test_speed_is_images_over_seconds(photos_BCHW: Tensor, tmp_path: Path) -> None:
    cost = measure(network(Bounded(100)), photos_BCHW)
    assert set(cost.images_per_second) == {1, 8, 32}
    assert all(rate > 0 for rate in cost.images_per_second.values())
    assert cost.images_per_second[32] > cost.images_per_second[1], "larger batches of a tiny layer cost hardly more"
    assert cost.measured_on == "cpu"
    finding = Finding()
    describe(cost, finding)
    assert finding.outcome == "pass"
    assert finding.figures["peak_bytes"]["8"] == cost.peak_bytes[8]
