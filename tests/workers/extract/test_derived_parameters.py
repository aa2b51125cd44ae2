"""Parameters that meet no image as they are: standardised, looked up, mixed; and images in blocks of windows.

N images, P probes, S numbers of a sketch
"""

from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.domain.errors import EvaluationFailed
from tests.workers.extract.gradient_cases import InDouble, network_of, one_by_one, pictures
from workers.extract.gradients import gradient_sketches, random_probes
from workers.extract.sketch import SketchSize
from workers.zoo.classifiers import TimmTrunk

TIMM = {
    "standardised kernels": ("test_nfnet", {}),
    "response normalisation": ("convnextv2_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
    "windows": ("swin_tiny_patch4_window7_224", {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}),
    "cosine windows": ("swinv2_tiny_window8_256", {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}),
    "channel attention": ("xcit_nano_12_p16_224", {"depth": 1, "embed_dim": 32, "num_heads": 2}),
    "class attention": ("cait_xxs24_224", {"depth": 1, "embed_dim": 32, "num_heads": 2}),
}


class Pieces(nn.Module):
    """What reads 12 numbers an image with a parameter of its own."""

    def __init__(self, compute: Callable[["Pieces", Tensor], Tensor]) -> None:
        super().__init__()
        self.compute = compute
        self.matrix = nn.Parameter(torch.randn(12, 12))
        self.vector = nn.Parameter(torch.rand(12) + 0.5)
        self.scalar = nn.Parameter(torch.tensor(0.7))
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, batch_BCHW: Tensor) -> Tensor:
        return self.compute(self, batch_BCHW.flatten(1)).flatten(1)


def attended(own: Pieces, flat_BD: Tensor) -> Tensor:
    tokens_BTE = flat_BD.reshape(-1, 2, 6)
    found_BTE, weights_BTT = own.attention(own.token.repeat(len(flat_BD), 1, 1), tokens_BTE, tokens_BTE)
    return torch.cat([found_BTE, weights_BTT @ tokens_BTE], dim=1)


def biased(own: Pieces, flat_BD: Tensor) -> Tensor:
    tokens_BHTE = flat_BD.reshape(-1, 2, 3, 2)
    bias_HTT = own.matrix[torch.arange(9) % 5, :2].T.reshape(2, 3, 3)
    return functional.scaled_dot_product_attention(tokens_BHTE, tokens_BHTE, tokens_BHTE, attn_mask=bias_HTT)


def in_place(own: Pieces, flat_BD: Tensor) -> Tensor:
    return (flat_BD + 0).mul_(own.vector).add_(own.scalar.exp())


def biased_windows(own: Pieces, flat_BD: Tensor) -> Tensor:
    """Two windows an image, each with its own mask beside the learned bias."""
    windows_WTE = flat_BD.reshape(-1, 3, 2)
    mask_WTT = torch.arange(2.0, dtype=flat_BD.dtype).repeat(len(flat_BD))[:, None, None] * torch.eye(3).to(flat_BD)
    bias_WTT = own.matrix[:3, :3] + mask_WTT
    return functional.scaled_dot_product_attention(windows_WTE, windows_WTE, windows_WTE, attn_mask=bias_WTT).reshape(
        len(flat_BD), -1
    )


PIECES: dict[str, Callable[[Pieces, Tensor], Tensor]] = {
    "a matrix product": lambda own, flat_BD: flat_BD @ own.matrix,
    "a part of a matrix": lambda own, flat_BD: functional.linear(flat_BD, weight=own.matrix[2:7], bias=own.vector[2:7]),
    "a transposed matrix": lambda own, flat_BD: functional.linear(flat_BD, own.matrix.T),
    "a sum of parameters": lambda own, flat_BD: flat_BD * (own.vector + own.matrix.mean(0)),
    "a difference": lambda own, flat_BD: own.scalar - (flat_BD - own.vector),
    "a quotient": lambda own, flat_BD: own.scalar / (flat_BD / own.vector + 9),
    "addcmul": lambda own, flat_BD: torch.addcmul(own.scalar, own.vector, flat_BD, value=2),
    "addcmul of one parameter": lambda own, flat_BD: torch.addcmul(flat_BD, flat_BD, own.vector),
    "prelu": lambda own, flat_BD: functional.prelu(flat_BD.reshape(-1, 3, 4), own.vector[:3]),
    "prelu of one slope": lambda own, flat_BD: functional.prelu(flat_BD, own.scalar[None]),
    "rms_norm": lambda own, flat_BD: functional.rms_norm(flat_BD, (12,), own.vector, 1e-6),
    "in place": in_place,
    "expand_as": lambda own, flat_BD: own.vector.expand_as(flat_BD) * flat_BD,
    "repeat": lambda own, flat_BD: torch.cat([own.token.repeat(len(flat_BD), 2, 1), flat_BD.reshape(-1, 2, 6)], 1),
    "a temperature": lambda own, flat_BD: (flat_BD * own.scalar.clamp(max=4).exp()).softmax(-1),
    "one matrix in two ways": lambda own, flat_BD: functional.linear(flat_BD, own.matrix) @ (own.matrix * 2),
    "a matrix and its diagonal": lambda own, flat_BD: functional.linear(flat_BD, own.matrix) * own.matrix.diagonal(),
    "attention to a token": attended,
    "attention with a bias": biased,
    "attention in masked windows": biased_windows,
    "conv1d": lambda own, flat_BD: functional.conv1d(
        flat_BD.reshape(-1, 2, 6), own.matrix.reshape(8, 2, 9)[:, :, :3], own.vector[:8], padding=(1,), stride=2
    ),
}  # fmt: skip


def whole(trunk: nn.Module, side: int, count: int = 3) -> None:
    """Compare whole gradients with those of one image at a time."""
    network = network_of(InDouble(trunk.eval()), side)
    directions_DP = random_probes(network.feature_dim, 2)
    images = pictures(count, side)
    found = gradient_sketches(network, images, directions_DP, batch_size=2 * count, sketch=None)
    expected = one_by_one(network, images, directions_DP)
    assert set(found.names) == set(expected)
    largest = max(np.abs(gradient_NPS).max() for gradient_NPS in expected.values())
    for name, layer_NPS in zip(found.names, found.layers, strict=True):
        scale = np.abs(expected[name]).max()
        # Some biases have no influence, and their gradients are rounding alone.
        if scale > 1e-12 * largest:
            np.testing.assert_allclose(layer_NPS, expected[name], rtol=0, atol=1e-9 * scale)


@pytest.mark.parametrize("kind", TIMM)
def test_networks_that_derive_their_weights(kind: str) -> None:
    name, arguments = TIMM[kind]
    torch.manual_seed(0)
    sized = {"img_size": 64} if kind in {"windows", "cosine windows", "class attention"} else {}
    module = timm.create_model(name, num_classes=3, **sized, **arguments)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    whole(TimmTrunk(module), 64)


@pytest.mark.parametrize("kind", PIECES)
def test_each_way_of_using_a_parameter(kind: str) -> None:
    torch.manual_seed(0)
    whole(Pieces(PIECES[kind]), 2, count=4)


@pytest.mark.parametrize("kind", ["a part of a matrix", "one matrix in two ways", "a matrix and its diagonal"])
def test_sketches_of_them_keep_inner_products_in_the_mean(kind: str) -> None:
    torch.manual_seed(0)
    network = network_of(Pieces(PIECES[kind]).eval(), 2)
    directions_DP = random_probes(network.feature_dim, 1)

    def kernel(sketch: SketchSize | None) -> np.ndarray:
        return gradient_sketches(network, pictures(4, 2), directions_DP, batch_size=8, sketch=sketch).cross_kernel()

    exact_NN = kernel(None)
    found = np.array([kernel(SketchSize(4, 3, seed)) for seed in range(60)])
    standard_error_NN = found.std(axis=0) / np.sqrt(len(found))
    assert np.abs((found.mean(axis=0) - exact_NN) / standard_error_NN).max() < 4
    assert 0 < np.abs(standard_error_NN).max() < 0.3 * np.abs(exact_NN).max()


def test_the_last_convolution_may_be_standardised() -> None:
    torch.manual_seed(0)
    network = network_of(TimmTrunk(timm.create_model("test_nfnet", num_classes=3).eval()), 64)
    directions_DP = random_probes(network.feature_dim, 1)
    found = gradient_sketches(network, pictures(2, 64), directions_DP, batch_size=2, scope="last_convolution")
    assert set(found.names) == {f"module.final_conv.{part}" for part in ("weight", "gain", "bias")}


class Windows(nn.Module):
    """A layer applied to two windows of each image, those of an image side by side or apart."""

    def __init__(self, *, apart: bool) -> None:
        super().__init__()
        self.apart = apart
        self.layer = nn.Linear(6, 6)

    def forward(self, batch_BCHW: Tensor) -> Tensor:
        windows_BWI = batch_BCHW.reshape(-1, 2, 6)
        if self.apart:
            return self.layer(windows_BWI.transpose(0, 1).flatten(0, 1)).reshape(2, -1, 6).mean(0)
        return self.layer(windows_BWI.flatten(0, 1)).reshape(-1, 2, 6).mean(1)


def test_windows_of_an_image_stay_together() -> None:
    torch.manual_seed(0)
    whole(Windows(apart=False), 2)
    network = network_of(Windows(apart=True), 2)
    with pytest.raises(EvaluationFailed, match="first axis") as caught:
        gradient_sketches(network, pictures(2, 2), random_probes(6, 1), batch_size=2)
    assert (caught.value.code, caught.value.param) == ("gradients_unsupported", "layer.weight")


REFUSED: dict[str, Callable[[Pieces, Tensor], Tensor]] = {
    "a product from the left": lambda own, flat_BD: (own.matrix @ flat_BD.T).T,
    "a scaled sum": lambda own, flat_BD: torch.add(flat_BD, own.vector, alpha=2),
    "attention to a learned key": lambda own, flat_BD: functional.scaled_dot_product_attention(
        flat_BD.reshape(-1, 2, 6), own.matrix[:2, :6], own.matrix[:2, :6]
    ),
    "changed by images": lambda own, flat_BD: (own.matrix + 0)[: len(flat_BD)].add_(flat_BD) + flat_BD,
    "an unknown operation": lambda own, flat_BD: torch.maximum(flat_BD, own.vector),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_rule_is_refused_by_name(kind: str) -> None:
    network = network_of(Pieces(REFUSED[kind]).eval(), 2)
    with pytest.raises(EvaluationFailed) as caught:
        gradient_sketches(network, pictures(2, 2), random_probes(12, 1), batch_size=2)
    assert caught.value.code == "gradients_unsupported"
    assert caught.value.param in {"matrix", "vector"}
