"""What the check of gradients says of networks that can be fine-tuned, and of those that cannot."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu_

from app.domain.model_spec import Preprocessing
from tests.fixtures.weights import HALF, small_spec
from workers.zoo.check_log import Finding
from workers.zoo.differentiability import check_gradients
from workers.zoo.network import Network, load_network
from workers.zoo.preprocessing import Preprocessor
from workers.zoo.sources import cached_weights


class Trunk(nn.Module):
    """A convolution, averaged, and what a subclass makes of its output."""

    def __init__(self, last: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.mixing = nn.Parameter(torch.rand(8, 8))
        self.last = last

    def forward(self, batch_BCHW: Tensor) -> Tensor:
        return self.last(self, self.conv(batch_BCHW).mean((2, 3)))


def spoiled_in_place(trunk: nn.Module, features_BD: Tensor) -> Tensor:
    grown_BD = features_BD.exp()
    return grown_BD * relu_(grown_BD.sub_(1))  # exp needs for its gradient what is overwritten here


def checked(last: Callable[[nn.Module, Tensor], Tensor]) -> tuple[bool, Finding]:
    steps = Preprocessing(resize=16, crop=(16, 16), interpolation="bilinear", mean=HALF, std=HALF)
    torch.manual_seed(0)
    network = Network(Trunk(last), None, Preprocessor(steps)).requires_grad_(False)
    finding = Finding()
    able = check_gradients(network, finding)
    assert not any(weight.requires_grad or weight.grad is not None for weight in network.parameters())
    return able, finding


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet", "test_vit"])
def test_a_network_that_can_be_fine_tuned_passes(architecture: str, tmp_path: Path) -> None:
    spec = small_spec(tmp_path, architecture, side=160 if architecture == "test_vit" else 64)
    network = load_network(spec, cached_weights(spec.source, tmp_path / "cache"))
    finding = Finding()
    assert check_gradients(network, finding)
    assert finding.outcome == "pass"
    assert finding.figures["unused"] == 0, "the classifier, which features do not need, is not counted"
    assert finding.figures["sketched"] == finding.figures["parameters"]
    assert finding.figures["sketched_numbers"] < network.num_parameters


@pytest.mark.parametrize(
    ("last", "code", "said"),
    [
        (lambda trunk, x: torch.cdist(x, trunk.mixing), "gradients_unsupported", "mixing"),
        (spoiled_in_place, "gradients_unsupported", "inplace operation"),
        (lambda trunk, x: x.detach(), "gradients_unsupported", "does not require grad"),
        (lambda trunk, x: (x * 0).sqrt(), "non_finite_gradient", "conv.weight"),
    ],
)
def test_a_network_without_gradients_is_warned_of(
    last: Callable[[nn.Module, Tensor], Tensor], code: str, said: str
) -> None:
    able, finding = checked(last)
    assert not able
    assert (finding.outcome, finding.code) == ("warn", code)
    assert said in finding.detail
    assert "no forecast" in (finding.hint or "")


def test_parameters_that_do_not_reach_the_features_are_told() -> None:
    able, finding = checked(lambda trunk, x: x)
    assert able
    assert finding.figures["unused"] == 1
    assert "first mixing" in finding.detail
