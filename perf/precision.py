"""How much features of the packaged, trained zoo err in a reduced precision, as the worker's own check measures it.

    .venv/bin/python -m perf.precision [--images N] [--autocast]

Without --autocast, rounding is done by hand in float32: weights, and what goes into and comes out of every layer. That
is what a GPU's tensor cores do, which add up in float32, and takes seconds where a CPU without these types takes
minutes to compute in them.

N images
"""

import argparse
import io
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from app.manifest import read_manifest
from workers.extract.features import extract
from workers.extract.precision import Precision, pin_arithmetic
from workers.extract.precision_check import relative_error, same_neighbours
from workers.zoo.network import Network, load_network
from workers.zoo.sources import cached_weights

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "weights"
SAMPLE = ROOT / "examples" / "fashion-mnist-sample.zip"
TYPES: dict[Precision, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def fashion(count: int) -> list[Image.Image]:
    """Return photographs of clothes from all classes of the example."""
    with zipfile.ZipFile(SAMPLE) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        chosen = [names[place] for place in np.linspace(0, len(names) - 1, count).astype(int)]
        return [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in chosen]


def photos() -> list[Image.Image]:
    """Return the packaged photos."""
    return [Image.open(path).convert("RGB") for path in sorted((ROOT / "zoo" / "photos").glob("*.jpg"))]


@contextmanager
def rounded(network: Network, dtype: torch.dtype) -> Iterator[None]:
    """Round weights, and the inputs and outputs of every layer, while the block runs."""

    def into(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(one.to(dtype).float() for one in inputs)

    def out(_: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.to(dtype).float()

    layers = [part for part in network.trunk.modules() if not list(part.children())]
    weights = {part: part.weight.data for part in layers if isinstance(part, nn.Conv2d | nn.Linear)}
    with ExitStack() as undone:
        for part in layers:
            undone.callback(part.register_forward_hook(out).remove)
        for part, weight in weights.items():
            part.weight.data = weight.to(dtype).float()
            undone.callback(part.register_forward_pre_hook(into).remove)
        yield
    for part, weight in weights.items():
        part.weight.data = weight


def features(
    network: Network, images: list[Image.Image], precision: Precision, *, autocast: bool
) -> NDArray[np.float32]:
    """Return the features (N, D) in a precision."""
    if autocast:
        return extract(network, images, batch_size=8, precision=precision).features_ND
    with rounded(network, TYPES[precision]):
        return extract(network, images, batch_size=8).features_ND


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=16, help="of Fashion-MNIST, beside the packaged photos")
    parser.add_argument("--autocast", action="store_true", help="compute in the precision itself")
    options = parser.parse_args()
    pin_arithmetic()
    print("| model | images | bfloat16: error | same neighbours | float16: error | same neighbours |")
    print("|---|---|--:|--:|--:|--:|")
    for spec in read_manifest():
        network = load_network(spec, cached_weights(spec.source, CACHE))
        for name, images in (("clothes", fashion(options.images)), ("photos", photos())):
            full_ND = extract(network, images, batch_size=8).features_ND
            cells = []
            for precision in TYPES:
                found_ND = features(network, images, precision, autocast=options.autocast)
                off, same = relative_error(full_ND, found_ND), same_neighbours(full_ND, found_ND)
                cells += [f"{off:.1%}", f"{same:.0%}"]
            print(f"| {spec.name} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
