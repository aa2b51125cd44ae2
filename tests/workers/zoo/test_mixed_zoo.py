"""Real architectures of many families: features and logits by the product's way are the library's own.

N images, D features, Z source classes, P probes, S numbers of a parameter
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image

from tests.fixtures.mixed_zoo import CLASSES, MEMBERS, Member, Twin, twin_of
from tests.workers.extract.gradient_cases import one_by_one
from workers.extract.features import extract
from workers.extract.gradients import DEFAULT_SKETCH, gradient_sketches, random_probes
from workers.finetune.plain_architecture import base_state, classifier_name, construction, plain_state
from workers.finetune.tuned_network import TunedNetwork, summed_loss
from workers.zoo.network import Network, load_network

IMAGES = 2


@dataclass(frozen=True)
class Loaded:
    """A network as a worker loads it, and its library's twin."""

    twin: Twin
    network: Network

    def images(self) -> list[Image.Image]:
        """Return smooth colours: a deep network of random weights hardly tells noise from noise."""
        side = self.twin.member.side
        colours = np.random.default_rng(0).integers(0, 256, (IMAGES, 5, 6, 3), dtype=np.uint8)
        return [Image.fromarray(one).resize((side + 20, side + 10), Image.Resampling.BICUBIC) for one in colours]


@pytest.fixture(scope="module", params=MEMBERS, ids=lambda member: member.architecture)
def loaded(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    member: Member = request.param
    with TemporaryDirectory() as folder:
        twin = twin_of(member, Path(folder))
        yield Loaded(twin, load_network(twin.spec, twin.weights))


def test_there_are_many_families() -> None:
    families = {member.family for member in MEMBERS}
    assert len(families) >= 45
    assert len({member.architecture for member in MEMBERS}) == len(MEMBERS) >= 60
    assert {member.library for member in MEMBERS} >= {"timm", "torchvision"}


def assert_same(found_ND: np.ndarray, expected_ND: np.ndarray) -> None:
    assert found_ND.shape == expected_ND.shape
    assert np.isfinite(expected_ND).all()
    np.testing.assert_allclose(found_ND, expected_ND, rtol=0, atol=1e-5 * np.abs(expected_ND).max())


def test_features_and_logits_are_the_librarys_own(loaded: Loaded) -> None:
    network, images = loaded.network, loaded.images()
    found = extract(network, images, batch_size=IMAGES)
    pixels_BHWC = torch.from_numpy(np.stack([network.preprocess.pixels(image) for image in images]))
    features_BD, logits_BZ = loaded.twin.answers(network.preprocess(pixels_BHWC).contiguous())
    assert_same(found.features_ND, features_BD.numpy())
    spread_D = found.features_ND.std(axis=0)
    assert spread_D.max() > 1e-4 * np.abs(found.features_ND).max(), "the features would tell no images apart"
    if logits_BZ is None:
        assert found.logits_NZ is None
    else:
        assert found.logits_NZ is not None
        assert found.logits_NZ.shape == (IMAGES, CLASSES)
        assert_same(found.logits_NZ, logits_BZ.numpy())
    assert (network.feature_dim, network.num_classes) == (
        features_BD.shape[1],
        None if logits_BZ is None else CLASSES,
    )

    again = extract(network, images, batch_size=IMAGES)
    np.testing.assert_array_equal(again.features_ND, found.features_ND)
    alone = extract(network, images[::-1], batch_size=1)
    assert_same(alone.features_ND[::-1], found.features_ND)


WHOLE = 20_000_000
"""Parameters up to which whole gradients are compared; of larger networks only which parameters have one."""


def test_gradients_are_those_of_automatic_differentiation(loaded: Loaded) -> None:
    """In single precision, where activations at their threshold fall to either side; exactness has its own tests."""
    network = loaded.network
    if not loaded.twin.member.has_gradients:
        pytest.skip("it is large, and made of what smaller networks of the zoo are made of")
    directions_DP = random_probes(network.feature_dim, 1)
    is_small = sum(parameter.numel() for parameter in network.trunk.parameters()) < WHOLE
    sketch = None if is_small else DEFAULT_SKETCH
    found = gradient_sketches(network, loaded.images(), directions_DP, batch_size=IMAGES, sketch=sketch)
    expected = one_by_one(network, loaded.images()[:1], directions_DP)
    assert set(found.names) == set(expected)
    largest = max(np.abs(gradient_1PS).max() for gradient_1PS in expected.values())
    for name, layer_NPS in zip(found.names, found.layers, strict=True):
        assert np.isfinite(layer_NPS).all()
        if is_small:
            allowed = 0.02 * np.abs(expected[name]).max() + 1e-4 * largest
            np.testing.assert_allclose(layer_NPS[:1], expected[name], rtol=0, atol=allowed, err_msg=name)


TRAINED = {
    "levit",
    "distilled deit",
    "crossvit",
    "dla",
    "swin",
    "nfnet",
    "convnextv2",
    "squeezenet",
    "siglip",
    "siglip classifier",
    "shufflenet",
}


def test_a_fresh_head_can_be_trained_and_taken_home(loaded: Loaded) -> None:
    network = loaded.network
    tuned = TunedNetwork.of(network, 3)
    pixels_BHWC = torch.from_numpy(np.stack([network.preprocess.pixels(image) for image in loaded.images()]))
    assert tuned.head.in_features == network.feature_dim
    if loaded.twin.member.family not in TRAINED:
        return
    tuned.set_training("frozen")
    with torch.inference_mode():
        size = float(tuned.trunk(network.preprocess(pixels_BHWC)).square().mean())
    optimizer = torch.optim.SGD(tuned.parameters(), lr=1e-3 / size)
    labels_B = torch.tensor([0, 2])
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = summed_loss(tuned(pixels_BHWC), labels_B, "cross_entropy")
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(2 * np.log(3), rel=1e-5)
    assert losses[-1] < losses[0] - 1e-4
    influential = {name for name, parameter in tuned.trunk.named_parameters() if parameter.grad is not None}
    # SigLIP's own pooling is there, and no part of what transformers' classifier reads.
    least = 0.75 if loaded.twin.member.family == "siglip classifier" else 0.9
    assert len(influential) > least * len(list(tuned.trunk.named_parameters()))

    spec, names = (
        loaded.twin.spec,
        {"timm": timm, "torch": torch, "torchvision": torchvision, "transformers": transformers},
    )
    names["num_classes"] = 3
    exec("\n".join(construction(spec)), names)
    plain = names["model"].eval()
    plain.load_state_dict(plain_state(spec, tuned.state_dict()))
    with torch.inference_mode():
        expected_BC = tuned(pixels_BHWC)
        found_BC = plain(network.preprocess(pixels_BHWC))
    assert_same(found_BC.numpy(), expected_BC.numpy())
    missing = plain.load_state_dict(base_state(spec, network.trunk), strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith(f"{classifier_name(spec)}.") for name in missing.missing_keys)
