"""The measured step is a real one."""

import time
from dataclasses import replace

import pytest
import torch

from app.domain.finetuning import Recipe
from app.domain.interruption import Interrupted
from app.domain.model_spec import ModelSpec
from workers.finetune.step_time import measure_step
from workers.zoo.network import Network


def test_a_step_takes_what_a_plain_step_takes(network: Network) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    recipe = Recipe(batch_size=16)
    measured = measure_step(network, 5, recipe, steps=9)
    assert (measured.steps, measured.batch_size, measured.fitting, measured.device) == (9, 16, 16, "cpu")
    assert 0 < measured.low <= measured.seconds <= measured.high
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    pixels_BHWC = torch.zeros(16, 32, 32, 3, dtype=torch.uint8)
    plain = []
    for _ in range(9):
        start = time.perf_counter()
        with torch.inference_mode():
            network(network.preprocess(pixels_BHWC))
        plain.append(time.perf_counter() - start)
    assert sorted(plain)[4] * 1.5 < measured.seconds < sorted(plain)[4] * 40


def test_a_larger_batch_takes_longer(zoo: dict[str, tuple[ModelSpec, Network]]) -> None:
    _, network = zoo["test_vit"]
    small, large = (measure_step(network, 3, Recipe(batch_size=size), steps=5) for size in (1, 12))
    assert large.seconds > 3 * small.seconds


def test_stops_and_refuses(network: Network) -> None:
    with pytest.raises(Interrupted):
        measure_step(network, 3, replace(Recipe(), batch_size=2), should_stop=lambda: True)
    with pytest.raises(ValueError, match="at least one"):
        measure_step(network, 3, Recipe(), steps=0)
