"""The measured step is a real one."""

import time
from dataclasses import replace

import pytest
import torch

from app.domain.finetuning import Recipe
from app.domain.interruption import Interrupted
from workers.finetune.step_time import measure_step
from workers.zoo.network import Network


def test_steps_are_whole_ones_of_the_batch_and_leave_the_network_as_it_was(network: Network) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    seen: list[tuple[int, bool]] = []

    def watch(module: torch.nn.Module, images: tuple[torch.Tensor, ...]) -> None:
        seen.append((len(images[0]), torch.is_grad_enabled()))

    first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    with first.register_forward_pre_hook(watch):
        start = time.perf_counter()
        measured = measure_step(network, 5, Recipe(batch_size=16), steps=9, warm_up=3)
        took = time.perf_counter() - start
    assert (measured.steps, measured.batch_size, measured.fitting, measured.device) == (9, 16, 16, "cpu")
    assert [images for images, is_training in seen if is_training] == [16] * 12
    assert 0 < measured.low <= measured.seconds <= measured.high
    assert 5 * measured.seconds < took, "half of the steps took at least the median"
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_stops_and_refuses(network: Network) -> None:
    with pytest.raises(Interrupted):
        measure_step(network, 3, replace(Recipe(), batch_size=2), should_stop=lambda: True)
    with pytest.raises(ValueError, match="at least one"):
        measure_step(network, 3, Recipe(), steps=0)
