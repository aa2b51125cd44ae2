"""Small networks, and their gradients image by image the obvious way.

N images, P probes, D features, S numbers of a parameter
"""

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.vision_transformer import VisionTransformer

from app.domain.model_spec import Preprocessing
from tests.fixtures.weights import HALF
from workers.zoo.classifiers import TimmTrunk
from workers.zoo.network import Network
from workers.zoo.preprocessing import Preprocessor

SIDE = 32


class InDouble(nn.Module):
    """A trunk in double precision behind a preprocessor in single precision."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk.double()

    def forward(self, batch_BCHW: Tensor) -> Tensor:
        features_BD: Tensor = self.trunk(batch_BCHW.double())
        return features_BD


def network_of(trunk: nn.Module, side: int = SIDE) -> Network:
    steps = Preprocessing(resize=side, crop=(side, side), interpolation="bilinear", mean=HALF, std=HALF)
    return Network(trunk, None, Preprocessor(steps)).requires_grad_(False)


def pictures(count: int, side: int = SIDE) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def small_trunk(name: str) -> nn.Module:
    """Build a trunk by name, every parameter and running statistic random and none negligible."""
    torch.manual_seed(0)
    trunk = _built(name)
    with torch.no_grad():
        for part in trunk.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 2)
        for parameter in trunk.parameters():
            if parameter.dim() < 2 or parameter.abs().max() < 0.1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return trunk.eval()


def _built(name: str) -> nn.Module:
    if name.startswith("test_"):
        return TimmTrunk(timm.create_model(name, num_classes=3))
    if name == "mobilenet_v2":
        module = get_model(name, weights=None, width_mult=0.1)
        module.classifier = nn.Identity()
        return module
    if name == "torchvision_vit":
        module = VisionTransformer(image_size=SIDE, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=40)
        module.heads = nn.Identity()
        return module
    if name == "vgg":
        convolutions = [nn.Conv2d(3, 20, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(20, 24, 3)]
        return nn.Sequential(
            *convolutions, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 30), nn.ReLU()
        )
    assert name == "grouped"
    return nn.Sequential(
        nn.Conv2d(3, 24, 4, stride=4),
        nn.ReLU(inplace=True),
        nn.Conv2d(24, 48, 3, padding=1, groups=6, bias=False),
        nn.GroupNorm(4, 48),
        nn.Conv2d(48, 48, (3, 1), stride=(1, 2), padding="valid", dilation=2, groups=2),
        nn.BatchNorm2d(48),
        nn.Hardswish(),
        nn.Conv2d(48, 96, 3, padding="same", groups=48),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def one_by_one(network: Network, images: list[Image.Image], directions_DP: np.ndarray) -> dict[str, np.ndarray]:
    """Return, for each parameter on which the features depend, the gradients (N, P, S)."""
    parameters = {name: value.detach().requires_grad_() for name, value in network.trunk.named_parameters()}
    found: dict[str, list[list[np.ndarray]]] = {}
    for image in images:
        pixels_1HWC = torch.tensor(network.preprocess.pixels(image))[None]
        features_1D = torch.func.functional_call(network.trunk, parameters, (network.preprocess(pixels_1HWC),))
        of_image: dict[str, list[np.ndarray]] = {}
        for direction_D in torch.tensor(directions_DP).to(features_1D).T:
            scalar = (features_1D[0] * direction_D).sum()
            gradients = torch.autograd.grad(scalar, list(parameters.values()), retain_graph=True, allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    of_image.setdefault(name, []).append(gradient.flatten().numpy())
        for name, probes in of_image.items():
            found.setdefault(name, []).append(probes)
    return {name: np.array(gradients) for name, gradients in found.items()}


def gram(gradients: dict[str, np.ndarray]) -> np.ndarray:
    """Return each probe's kernel (P, N, N) in float64, centred."""
    kernel = 0.0
    for gradient_NPS in gradients.values():
        rows_PNS = (gradient_NPS - gradient_NPS.mean(axis=0, dtype=np.float64)).transpose(1, 0, 2)
        kernel = kernel + rows_PNS @ rows_PNS.transpose(0, 2, 1)
    return np.asarray(kernel)
