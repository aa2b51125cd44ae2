"""The least anyone could do: decode, preprocess with torchvision's transforms, forward. Prints its seconds as JSON."""

import io
import json
import os
import sys
import time
import zipfile
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import InterpolationMode

from app.manifest import PACKAGED, read_manifest
from workers.zoo.network import load_network
from workers.zoo.sources import cached_weights

BATCH = 32


def main() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    archive, weights = Path(sys.argv[1]), Path(sys.argv[2])
    zoo = [
        (spec, load_network(spec, cached_weights(spec.source, weights), torch.device("cpu")))
        for spec in read_manifest(PACKAGED)
    ]
    with zipfile.ZipFile(archive) as opened:
        files = [opened.read(name) for name in opened.namelist()]
    elapsed = 0.0
    for spec, network in zoo:
        recipe = spec.preprocessing
        size = list(recipe.crop) if recipe.resize is None else recipe.resize
        transform = v2.Compose(
            [
                v2.Resize(size, InterpolationMode(recipe.interpolation)),
                v2.CenterCrop(recipe.crop),
                v2.PILToTensor(),
                v2.Lambda(lambda image, bgr=recipe.channels == "BGR": image.flip(0) if bgr else image),
                v2.ToDtype(torch.float32),
                v2.Normalize([m * recipe.divide_by for m in recipe.mean], [s * recipe.divide_by for s in recipe.std]),
            ]
        )
        started = time.perf_counter()
        with torch.inference_mode():
            for first in range(0, len(files), BATCH):
                images = [Image.open(io.BytesIO(data)).convert("RGB") for data in files[first : first + BATCH]]
                network.forward(torch.stack([transform(image) for image in images]))
        elapsed += time.perf_counter() - started
    print(json.dumps({"seconds": elapsed}))


if __name__ == "__main__":
    main()
