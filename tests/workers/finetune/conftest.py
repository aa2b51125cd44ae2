"""Small pretrained networks and small images of three kinds."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from app.domain.model_spec import ModelSpec
from app.manifest import read_manifest
from tests.fixtures.tiny_zoo import tiny_zoo
from tests.fixtures.weights import one_thread
from workers.finetune.pixels import PixelStore
from workers.finetune.split import split_images
from workers.finetune.tuning import Images
from workers.zoo.network import Network, load_network
from workers.zoo.sources import cached_weights

__all__ = ["one_thread"]

SIDE = 32


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ModelSpec, Network]]:
    """Networks by name; whoever trains one trains a copy."""
    folder = tmp_path_factory.mktemp("zoo")
    found = {}
    for spec in read_manifest(tiny_zoo(folder)):
        if "vit" not in spec.name:
            assert spec.preprocessing is not None
            spec = replace(spec, preprocessing=replace(spec.preprocessing, resize=SIDE + 4, crop=(SIDE, SIDE)))
        found[spec.name] = spec, load_network(spec, cached_weights(spec.source, folder / "cache"))
    return found


@pytest.fixture(scope="session")
def network(zoo: dict[str, tuple[ModelSpec, Network]]) -> Network:
    return zoo["test_resnet"][1]


def pictures(count: int, *, classes: int = 3) -> tuple[list[Image.Image], np.ndarray]:
    """Noise over a colour; the class is the colour."""
    random = np.random.default_rng(0)
    labels_N = np.arange(count, dtype=np.int64) % classes
    colours_C3 = np.random.default_rng(1).integers(60, 196, (classes, 3))
    noise = random.integers(-50, 50, (count, 40, 44, 3)) + colours_C3[labels_N][:, None, None, :]
    return [Image.fromarray(pixels.astype(np.uint8)) for pixels in noise], labels_N


def store_of(network: Network, images: list[Image.Image], **options: int) -> PixelStore:
    def read(rows: np.ndarray) -> Iterator[Image.Image]:
        assert (np.diff(rows) > 0).all()
        return (images[row] for row in rows)

    return PixelStore(network.preprocess, read, np.arange(len(images)), **options)


@pytest.fixture(scope="session")
def tuning_images(network: Network) -> Images:
    images, labels_N = pictures(45)
    return Images(store_of(network, images), labels_N, 3, split_images(labels_N))
