"""Telling weights that were trained from those that were not."""

import dataclasses
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from app.domain.errors import ModelRejected
from app.domain.model_spec import Head
from tests.fixtures.rows import spec
from tests.fixtures.weights import packaged
from workers.zoo.architectures import build_with
from workers.zoo.check_log import Finding
from workers.zoo.containers import read
from workers.zoo.initialisation import check_trained, inspect
from workers.zoo.sources import cached_weights


def fresh(architecture: str, seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(architecture, num_classes=10)


def stated(architecture: str):
    head = Head(num_classes=10, label_set="x")
    return dataclasses.replace(spec("one"), architecture=f"timm:{architecture}", head=head)


@pytest.mark.parametrize(
    "architecture", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext", "test_nfnet", "mixer_s32_224"]
)
def test_a_network_that_was_never_trained_is_noticed(architecture: str) -> None:
    finding = Finding()
    assert not check_trained(fresh(architecture), stated(architecture), finding)
    assert (finding.outcome, finding.code) == ("warn", "near_initialisation")
    assert finding.hint
    assert finding.figures["fresh_layers"] >= 0.9 * finding.figures["layers"] > 0


def test_statistics_alone_are_no_training() -> None:
    module = fresh("test_resnet").train()
    with torch.no_grad():
        module(torch.randn(8, 3, 64, 64) * 3)
    found = inspect(module, stated("test_resnet"))
    assert found.is_fresh
    assert found.untouched_statistics == 0


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_nfnet"])
def test_a_little_training_is_noticed(architecture: str) -> None:
    module = fresh(architecture).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    side = 160 if architecture == "test_vit" else 96
    for _ in range(12):
        loss = cross_entropy(module(torch.randn(4, 3, side, side)), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    finding = Finding()
    assert check_trained(module, stated(architecture), finding)
    assert finding.outcome == "pass"


@pytest.mark.parametrize("name", ["mobilenetv2-imagenet", "vgg16-hed-edges"])
def test_really_trained_networks_are_not_doubted(name: str, weights_cache: Path) -> None:
    real = packaged(name)
    found = inspect(build_with(real, read(cached_weights(real.source, weights_cache))), real)
    assert not found.is_fresh
    assert found.fresh_layers == 0
    # Without layers of normalisation, the spread of the weights is all there is to go by.
    assert (found.layers > 0) == (name == "vgg16-hed-edges")


def test_a_variance_below_zero_is_impossible() -> None:
    module = fresh("test_resnet")
    module.get_buffer("bn1.running_var")[2:4] = -0.1
    with pytest.raises(ModelRejected, match="2 variances of bn1") as caught:
        inspect(module, stated("test_resnet"))
    assert caught.value.code == "invalid_batch_norm"


def test_chance_is_left_as_it_was() -> None:
    module = fresh("test_nfnet")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    inspect(module, stated("test_nfnet"))
    assert torch.equal(torch.rand(3), expected)
