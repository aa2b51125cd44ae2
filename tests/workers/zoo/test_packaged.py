"""The packaged zoo for real: every model is admitted, and those that cannot name a photo show otherwise what they are.

B photos, D features, H x W pixels
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.models import mobilenet_v2

from app.domain.interruption import Interrupted
from app.manifest import read_manifest
from tests.fixtures.weights import packaged
from workers.zoo import known_photos
from workers.zoo.admission import CHECKS, Check, admit
from workers.zoo.containers import read
from workers.zoo.model_facts import sizes
from workers.zoo.network import Network, load_network
from workers.zoo.sources import cached_weights

NAMES = [spec.name for spec in read_manifest()]
FACTS = {
    "efficientnet-lite0": (1280, 1000, 4_652_008, "efficientnet"),
    "efficientnet-lite1": (1280, 1000, 5_416_680, "efficientnet"),
    "efficientnet-lite2": (1280, 1000, 6_092_072, "efficientnet"),
    "mobilenetv2-imagenet": (1280, 1000, 3_504_872, "mobilenetv2"),
    "mobilenetv2-deepsort": (1280, None, 2_223_872, "mobilenetv2"),
    "mobilenetv2-dogs": (1280, 19, 2_248_211, "efficientnet"),
    "vgg16-hed-edges": (512, None, 14_714_688, "vgg"),
}


ALIKE = {"efficientnet-lite1", "efficientnet-lite2", "mobilenetv2-deepsort"}
"""Those of an architecture of which another is measured: what they can and what they are like is looked at."""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ALIKE])
def test_packaged_models_are_admitted(name: str, weights_cache: Path) -> None:
    seen: list[str] = []
    admission = admit(packaged(name), weights_cache, on_check=lambda check: seen.append(check["name"]))
    assert seen == [check["name"] for check in admission.checks] == list(CHECKS)
    assert {check["outcome"] for check in admission.checks} == {"pass"}
    facts = admission.facts
    assert tuple(facts[fact] for fact in ("feature_dim", "num_classes", "parameters", "family")) == FACTS[name]
    assert admission.spec.source.member_sha256 == facts["weights_sha256"]  # type: ignore[union-attr]
    assert 0.1 < facts["gflops"] < 20
    assert facts["capabilities"] == {"features": True, "logits": facts["num_classes"] is not None, "gradients": True}


@pytest.mark.parametrize("name", sorted(ALIKE))
def test_those_alike_pass_all_that_looks_at_their_weights(name: str, weights_cache: Path) -> None:
    seen: list[Check] = []

    def end_at_gradients(check: str) -> None:
        if check == "gradients":
            raise Interrupted

    with pytest.raises(Interrupted):
        admit(packaged(name), weights_cache, on_start=end_at_gradients, on_check=seen.append)
    assert [check["name"] for check in seen] == list(CHECKS[: CHECKS.index("gradients")])
    assert {check["outcome"] for check in seen} == {"pass"}
    spec = packaged(name)
    found = sizes(load_network(spec, cached_weights(spec.source, weights_cache)))
    assert (found["feature_dim"], found["num_classes"], found["parameters"]) == FACTS[name][:3]


def centred_features(network: Network) -> np.ndarray:
    """Return the features (B, D), less their mean, of every photo and its two halves."""
    pixels = []
    for name in known_photos.names():
        photo = known_photos.load(name)
        width, height = photo.size
        for box in ((0, 0, width, height), (0, 0, width // 2, height), (width // 2, 0, width, height)):
            pixels.append(network.preprocess.pixels(photo.crop(box)))
    with torch.inference_mode():
        features_BD = network(network.preprocess(torch.from_numpy(np.stack(pixels))))[0].double().numpy()
    return features_BD - features_BD.mean(axis=0)


def linear_cka(first_BD: np.ndarray, second_BD: np.ndarray) -> float:
    """Return the linear centred kernel alignment of two feature matrices (Kornblith et al., 2019)."""
    first_BB, second_BB = first_BD @ first_BD.T, second_BD @ second_BD.T
    return float((first_BB * second_BB).sum() / np.linalg.norm(first_BB) / np.linalg.norm(second_BB))


def test_deepsort_sees_photos_as_another_imagenet_network_does(weights_cache: Path) -> None:
    deepsort, imagenet = (
        load_network(packaged(name), cached_weights(packaged(name).source, weights_cache))
        for name in ("mobilenetv2-deepsort", "mobilenetv2-imagenet")
    )
    reference_BD = centred_features(imagenet)
    assert linear_cka(centred_features(deepsort), reference_BD) > 0.95
    torch.manual_seed(0)
    untrained = Network(mobilenet_v2(num_classes=1280).eval(), None, deepsort.preprocess)
    assert linear_cka(centred_features(untrained), reference_BD) < 0.7


def test_the_edge_trunk_draws_edges(weights_cache: Path) -> None:
    spec = packaged("vgg16-hed-edges")
    weights = cached_weights(spec.source, weights_cache)
    network = load_network(spec, weights)
    tensors = read(weights)
    photo = known_photos.load("coffee.jpg")
    pixels_BHWC = torch.from_numpy(np.asarray(photo).copy())[None]
    maps, ends = [], {3: 1, 8: 2, 15: 3, 22: 4, 29: 5}
    with torch.inference_mode():
        x = network.preprocess(pixels_BHWC)
        for index, layer in enumerate(network.trunk.features):  # type: ignore[arg-type, union-attr]
            x = layer(x)
            if side := ends.get(index):
                kernel = tensors[f"dsn{side}/vars/0"].permute(3, 2, 0, 1)
                logits = F.conv2d(x, kernel, tensors[f"dsn{side}/vars/1"])
                maps.append(F.interpolate(logits, size=photo.size[::-1], mode="bilinear"))
        fuse = tensors["fuse/vars/0"].permute(3, 2, 0, 1)
        edges_HW = torch.sigmoid(F.conv2d(torch.cat(maps, 1), fuse, tensors["fuse/vars/1"]))[0, 0].numpy()

    gray_HW = np.asarray(photo.convert("L"), np.float64)
    steps_HW = np.hypot(*np.gradient(gray_HW))
    strong, flat = steps_HW > np.quantile(steps_HW, 0.98), steps_HW < np.quantile(steps_HW, 0.5)
    assert edges_HW.max() > 0.9
    assert edges_HW[strong].mean() > 4 * edges_HW[flat].mean()
