"""Gradients of single images against automatic differentiation one image at a time; sketches against the whole.

N images, P probes, S numbers of a sketch
"""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from app.domain.errors import EvaluationFailed
from tests.workers.extract.gradient_cases import InDouble, gram, network_of, one_by_one, pictures, small_trunk
from workers.extract.gradients import GradientSketches, gradient_sketches, random_probes
from workers.extract.sketch import SketchSize
from workers.zoo.network import Network

TRUNKS = [
    "test_resnet", "test_efficientnet", "test_efficientnet_ln", "test_byobnet", "test_convnext", "test_vit",
    "test_vit3", "mobilenet_v2", "torchvision_vit", "vgg", "grouped",
]  # fmt: skip


def side_of(name: str) -> int:
    return 160 if name.startswith("test_vit") else 32


def whole(network: Network, count: int, directions_DP: np.ndarray, side: int) -> GradientSketches:
    return gradient_sketches(network, pictures(count, side), directions_DP, batch_size=count, sketch=None)


@pytest.mark.parametrize("name", TRUNKS)
def test_whole_gradients_are_those_of_one_image_at_a_time(name: str) -> None:
    side = side_of(name)
    network = network_of(InDouble(small_trunk(name)), side)
    directions_DP = random_probes(network.feature_dim, 2)
    found = whole(network, 4, directions_DP, side)
    expected = one_by_one(network, pictures(4, side), directions_DP)
    assert set(found.names) == set(expected)
    assert found.parameters == sum(gradient_NPS.shape[2] for gradient_NPS in expected.values())
    for name_of_parameter, layer_NPS in zip(found.names, found.layers, strict=True):
        scale = np.abs(expected[name_of_parameter]).max()
        # A key's bias has no influence on softmax attention: what is left of its gradient is rounding.
        if scale > 1e-12:
            np.testing.assert_allclose(layer_NPS, expected[name_of_parameter], rtol=0, atol=1e-9 * scale)
    exact_PNN = gram(expected)
    np.testing.assert_allclose(found.kernels().centred_PNN, exact_PNN, rtol=0, atol=1e-9 * np.abs(exact_PNN).max())


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "mobilenet_v2", "torchvision_vit"])
def test_in_single_precision_kernels_agree(name: str) -> None:
    network = network_of(small_trunk(name))
    directions_DP = random_probes(network.feature_dim, 2)
    found = whole(network, 5, directions_DP, 32)
    assert {layer_NPS.dtype for layer_NPS in found.layers} == {np.dtype(np.float32)}
    kernels = found.kernels()
    towards_PN, square_P = kernels.towards_mean_PN, kernels.mean_square_P[:, None, None]
    uncentred_PNN = kernels.centred_PNN + towards_PN[:, :, None] + towards_PN[:, None] + square_P
    gradients = one_by_one(network, pictures(5), directions_DP)
    exact_PNN = sum(
        np.einsum("ips,jps->pij", *(gradient_NPS.astype(float),) * 2) for gradient_NPS in gradients.values()
    )
    np.testing.assert_allclose(uncentred_PNN, exact_PNN, rtol=0, atol=1e-5 * np.abs(exact_PNN).max())
    cross = found.cross_kernel().reshape(5, 2, 5, 2)
    for probe in range(2):
        np.testing.assert_allclose(cross[:, probe, :, probe], exact_PNN[probe], atol=1e-5 * np.abs(exact_PNN).max())


def test_what_images_have_in_common_does_not_drown_what_tells_them_apart() -> None:
    """A random MobileNet sees the same in every image: its centred kernel is a 10^-6 of the uncentred one."""
    trunk = small_trunk("mobilenet_v2")
    network = network_of(trunk)
    directions_DP = random_probes(network.feature_dim, 1)
    found = whole(network, 6, directions_DP, 32)
    rows_NS = np.concatenate([layer_NPS[:, 0] for layer_NPS in found.layers], axis=1)
    uncentred_NN = rows_NS @ rows_NS.T
    centring_NN = np.eye(6, dtype=np.float32) - 1 / np.float32(6)
    exact_NN = gram(one_by_one(network_of(InDouble(trunk)), pictures(6), directions_DP))[0]
    late_NN = centring_NN @ uncentred_NN @ centring_NN
    assert np.linalg.norm(late_NN - exact_NN) > 0.5 * np.linalg.norm(exact_NN)
    assert np.linalg.norm(found.kernels().centred_PNN[0] - exact_NN) < 0.05 * np.linalg.norm(exact_NN)


def test_class_sums_give_the_alignment_with_labels() -> None:
    """<H K H, Y Y^T> from one gradient a class, that of the sum over its images: no image's own gradient is used."""
    network = network_of(InDouble(small_trunk("test_efficientnet")))
    images, labels_N = pictures(8), np.array([0, 0, 1, 1, 1, 2, 2, 2])
    directions_DP = random_probes(network.feature_dim, 1)
    parameters = {name: value.detach().requires_grad_() for name, value in network.trunk.named_parameters()}
    sums = []
    for label in range(3):
        pixels = [network.preprocess.pixels(image) for image, own in zip(images, labels_N, strict=True) if own == label]
        batch_BCHW = network.preprocess(torch.tensor(np.stack(pixels)))
        features_BD = torch.func.functional_call(network.trunk, parameters, (batch_BCHW,))
        scalar = (features_BD @ torch.tensor(directions_DP[:, 0]).double()).sum()
        gradients = torch.autograd.grad(scalar, list(parameters.values()), allow_unused=True)
        sums.append(torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).numpy())
    sums_CS, counts_C = np.stack(sums), np.bincount(labels_N)
    expected = np.square(sums_CS - counts_C[:, None] * sums_CS.sum(axis=0) / 8).sum()
    same_NN = labels_N[:, None] == labels_N
    found = whole(network, 8, directions_DP, 32).kernels().centred_PNN[0]
    assert (found * same_NN).sum() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["test_byobnet", "grouped", "torchvision_vit", "vgg"])
def test_sketches_keep_inner_products_in_the_mean(name: str) -> None:
    network = network_of(small_trunk(name))
    directions_DP = random_probes(network.feature_dim, 1)
    exact_NN = whole(network, 4, directions_DP, 32).cross_kernel()
    # A small sketch, so that every kind of layer is projected, groups and vectors too.
    found = np.array(
        [
            gradient_sketches(
                network, pictures(4), directions_DP, batch_size=4, sketch=SketchSize(5, 3, seed)
            ).cross_kernel()
            for seed in range(30)
        ]
    )
    error_NN = found.mean(axis=0) - exact_NN
    standard_error_NN = found.std(axis=0) / np.sqrt(len(found))
    assert np.abs(error_NN / standard_error_NN).max() < 4
    assert np.abs(standard_error_NN).max() < 0.2 * np.abs(exact_NN).max()


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "mobilenet_v2", "torchvision_vit", "grouped"])
def test_the_usual_sketch_is_close(name: str) -> None:
    network = network_of(small_trunk(name))
    directions_DP = random_probes(network.feature_dim)
    sketched = gradient_sketches(network, pictures(8), directions_DP, batch_size=8)
    exact_NN = whole(network, 8, directions_DP, 32).kernels().centred_PNN.mean(axis=0)
    error_NN = sketched.kernels().centred_PNN.mean(axis=0) - exact_NN
    # Sixteen wide, the little transformer has little to average over.
    bound = 0.4 if name == "torchvision_vit" else 0.2
    assert np.linalg.norm(error_NN) < bound * np.linalg.norm(exact_NN)
    if name != "grouped":
        held = sum(layer_NPS.shape[2] for layer_NPS in sketched.layers)
        assert held < 0.3 * sketched.parameters


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("test_resnet", "module.layer4.0.downsample.1"),
        ("vgg", "3"),
        ("mobilenet_v2", "features.18.0"),
        ("torchvision_vit", "encoder.layers.encoder_layer_1.mlp.3"),
    ],
)
def test_the_last_convolution_alone(name: str, layer: str) -> None:
    network = network_of(small_trunk(name))
    directions_DP = random_probes(network.feature_dim, 2)
    found = gradient_sketches(network, pictures(3), directions_DP, batch_size=3, scope="last_convolution", sketch=None)
    assert {parameter.rpartition(".")[0] for parameter in found.names} == {layer}
    assert found.parameters == sum(parameter.numel() for parameter in network.trunk.get_submodule(layer).parameters())
    expected = one_by_one(network, pictures(3), directions_DP)
    for parameter, layer_NPS in zip(found.names, found.layers, strict=True):
        np.testing.assert_allclose(
            layer_NPS, expected[parameter], rtol=0, atol=1e-5 * np.abs(expected[parameter]).max()
        )


class Shared(nn.Module):
    """One layer applied twice, and one parameter twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 12)
        self.scale = nn.Parameter(torch.rand(12))

    def forward(self, batch_BCHW: Tensor) -> Tensor:
        once_BD = torch.tanh(self.layer(batch_BCHW.flatten(1)))
        return self.layer(once_BD * self.scale) * self.scale.reshape(1, 12)


def test_what_is_used_twice_adds_up() -> None:
    torch.manual_seed(0)
    network = network_of(InDouble(Shared()), 2)
    directions_DP = random_probes(12, 2)
    found = whole(network, 3, directions_DP, 2)
    expected = one_by_one(network, pictures(3, 2), directions_DP)
    assert set(found.names) == {"trunk.layer.weight", "trunk.layer.bias", "trunk.scale"}
    for parameter, layer_NPS in zip(found.names, found.layers, strict=True):
        np.testing.assert_allclose(layer_NPS, expected[parameter], atol=1e-12)


class Unknown(nn.Module):
    """A parameter used as no rule describes."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.mixing = nn.Parameter(torch.eye(12))

    def forward(self, batch_BCHW: Tensor) -> Tensor:
        flat_BD = batch_BCHW.flatten(1)
        if self.way == "hidden":
            return Hidden.apply(flat_BD, self.mixing)
        if self.way == "einsum":
            return torch.einsum("bi,ij->bj", flat_BD, self.mixing)
        if self.way == "product":
            return (self.mixing @ flat_BD.T).T
        return nn.functional.linear(flat_BD.reshape(-1, 2, 6).transpose(0, 1), self.mixing[:, :6])


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, flat_BD: Tensor, mixing: Tensor) -> Tensor:
        return flat_BD @ mixing

    @staticmethod
    def backward(ctx: object, gradient_BD: Tensor) -> tuple[Tensor, Tensor]:
        return gradient_BD, torch.ones(12, 12)


class TokensFirst(nn.Module):
    """Every image's first token before any image's second."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, batch_BCHW: Tensor) -> Tensor:
        return self.layer(batch_BCHW.reshape(-1, 2, 6).transpose(0, 1))[0]


class Overwritten(nn.Module):
    """An input changed after its use: the product of its new values would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def forward(self, batch_BCHW: Tensor) -> Tensor:
        flat_BD = batch_BCHW.flatten(1)
        features_BD = self.layer(flat_BD)
        flat_BD.zero_()
        return features_BD


@pytest.mark.parametrize("way", ["hidden", "einsum", "product", "part"])
def test_a_parameter_used_otherwise_is_refused_by_name(way: str) -> None:
    network = network_of(nn.Sequential(nn.Identity(), Unknown(way)), 2)
    with pytest.raises(EvaluationFailed, match=r"1\.mixing \(Unknown\)") as caught:
        whole(network, 2, random_probes(12, 1), 2)
    assert (caught.value.code, caught.value.param) == ("gradients_unsupported", "1.mixing")
    assert caught.value.hint


def test_images_that_are_not_the_first_axis_are_refused() -> None:
    # Two images of two tokens: from the shape alone, images and tokens could be mistaken for each other.
    with pytest.raises(EvaluationFailed, match="first axis") as caught:
        whole(network_of(nn.Sequential(TokensFirst()), 2), 2, random_probes(6, 1), 2)
    assert caught.value.param == "0.layer.weight"


def test_an_overwritten_input_is_refused() -> None:
    network = network_of(nn.Sequential(Overwritten()), 2)
    with pytest.raises(EvaluationFailed, match="modified by an inplace operation"):
        gradient_sketches(network, pictures(2, 2), random_probes(4, 1), batch_size=2, sketch=None)


def test_a_network_whose_statistics_are_those_of_the_batch_is_refused() -> None:
    training = network_of(small_trunk("vgg"))
    training.trunk[0].train()
    without = network_of(nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()))
    for network in (training, without):
        network.trunk.requires_grad_(False)
        with pytest.raises(EvaluationFailed) as caught:
            whole(network, 2, random_probes(4, 1), 32)
        assert caught.value.code == "batch_norm_in_training"
