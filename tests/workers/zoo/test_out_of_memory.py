"""A model that does not fit into memory: the system really refuses what is asked for."""

import dataclasses
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.fixtures.weights import small_spec
from workers.zoo.admission import CHECKS, AdmissionRefused, admit
from workers.zoo.network import load_network
from workers.zoo.soundness import check_forward
from workers.zoo.sources import cached_weights

ROOM = 16 << 20
"""Bytes; less than the weights of a ResNet-18, which are 46 MB."""


def shrink_memory(room: int = ROOM) -> None:
    """Have the system refuse this process whatever goes beyond a little more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, hard))


@contextmanager
def at_most_memory(room: int) -> Iterator[None]:
    """Let this process have no more than so many bytes beyond what it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    shrink_memory(room)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def limited_memory() -> Iterator[None]:
    """Give the memory back that a test took from its own process."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("limited_memory")
@pytest.mark.parametrize("check", ["safe_container", "forward", "gradients"])
def test_a_model_that_is_loaded_beyond_memory_is_refused_by_name(tmp_path: Path, check: str) -> None:
    spec = small_spec(tmp_path, "resnet18")
    with pytest.raises(AdmissionRefused) as caught:
        admit(spec, tmp_path / "cache", on_start=lambda name: shrink_memory() if name == check else None)
    refused = caught.value
    assert (refused.code, refused.checks[-1]["name"]) == ("out_of_memory", check)
    assert refused.hint
    assert [one["name"] for one in refused.checks] == list(CHECKS[: CHECKS.index(check) + 1])
    assert "memory ran out in the check" in refused.message
    assert "allocate" not in refused.message


@pytest.mark.usefixtures("limited_memory")
@pytest.mark.parametrize("side", [20_000, 99_999_999])
def test_images_that_are_made_larger_than_memory_are_told_by_name(tmp_path: Path, side: int) -> None:
    spec = small_spec(tmp_path)
    assert spec.preprocessing is not None
    steps = dataclasses.replace(spec.preprocessing, resize=side, crop=(side, side))
    with pytest.raises(AdmissionRefused) as caught:
        admit(
            dataclasses.replace(spec, preprocessing=steps),
            tmp_path / "cache",
            on_start=lambda name: shrink_memory(1 << 30) if name == "forward" else None,
        )
    assert (caught.value.code, caught.value.checks[-1]["name"]) == ("out_of_memory", "forward")
    assert "preprocessing.resize" in str(caught.value.hint)


def test_a_pass_for_which_memory_runs_out_is_no_failure_of_the_network(tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    network = load_network(spec, cached_weights(spec.source, tmp_path / "cache"))
    batch_BCHW = torch.zeros(1, 3, 64, 64).expand(4096, 3, 64, 64)
    with at_most_memory(64 << 20), pytest.raises(RuntimeError, match="allocate memory"):
        check_forward(network, torch.nn.Identity(), batch_BCHW)
