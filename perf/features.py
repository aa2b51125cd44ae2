"""Features by the product's way against the library's own forward pass of the same batch.

    .venv/bin/python -m perf.features [--images N] [--rounds N] [--threads N] [--models NAME ...]

Both networks hold the same weights, in one process, and take turns; a ratio is that of the medians. The library's own
network computes twice: as its users have it, in contiguous memory, and in channels-last memory.

B images, D features
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model

from app.domain.model_spec import Head, ModelSpec, Preprocessing, SafetensorsSource
from workers.zoo.network import Network, load_network

MODELS = ("torchvision:resnet50", "torchvision:mobilenet_v2", "timm:vit_small_patch16_224", "timm:convnext_tiny")
SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pair_of(architecture: str, folder: Path) -> tuple[nn.Module, Network]:
    """Return the library's own network and ours of the same random weights."""
    library, _, name = architecture.partition(":")
    torch.manual_seed(0)
    module = timm.create_model(name) if library == "timm" else get_model(name, weights=None)
    weights = folder / f"{name}.safetensors"
    save_file(module.state_dict(), weights)
    spec = ModelSpec(
        name=name,
        source=SafetensorsSource(uri=weights.as_uri(), sha256="0" * 64),
        architecture=architecture,
        preprocessing=Preprocessing(resize=SIDE, crop=(SIDE, SIDE), interpolation="bilinear", mean=MEAN, std=STD),
        head=Head(num_classes=1000, label_set="imagenet1k"),
    )
    return module.eval().requires_grad_(False), load_network(spec, weights)


def library_pass(module: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return the library's own pass over a batch: features (B, D) and logits."""
    last = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
    found: list[Tensor] = []
    last.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))

    def run(batch_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        found.clear()
        logits_BZ = module(batch_BCHW)
        return found[0], logits_BZ

    return run


def seconds(run: Callable[[Tensor], object], batch_BCHW: Tensor) -> float:
    """Return how long a pass takes."""
    started = time.perf_counter()
    run(batch_BCHW)
    return time.perf_counter() - started


def measure(architecture: str, images: int, rounds: int) -> str:
    """Return the row of a model."""
    with TemporaryDirectory() as folder:
        module, network = pair_of(architecture, Path(folder))
        pixels_BHWC = torch.randint(0, 256, (images, SIDE, SIDE, 3), dtype=torch.uint8)
        with torch.inference_mode():
            # As the preprocessing leaves it, and as a library's users stack their images.
            batch_BCHW = network.preprocess(pixels_BHWC)
            contiguous_BCHW = batch_BCHW.contiguous()
            own = library_pass(module)
            ours_BD = network(batch_BCHW)[0]
            theirs_BD = own(contiguous_BCHW)[0]
            difference = float((ours_BD - theirs_BD).abs().max() / theirs_BD.abs().max())
            taken: dict[str, list[float]] = {"ours": [], "contiguous": [], "channels last": []}
            for _ in range(rounds + 1):
                module.to(memory_format=torch.contiguous_format)
                taken["contiguous"].append(seconds(own, contiguous_BCHW))
                taken["ours"].append(seconds(network, batch_BCHW))
                module.to(memory_format=torch.channels_last)
                taken["channels last"].append(seconds(own, batch_BCHW))
    median = {name: statistics.median(times[1:]) for name, times in taken.items()}
    ratios = [median["ours"] / median[name] for name in ("contiguous", "channels last")]
    cells = [f"{median[name]:.3f}" for name in ("ours", "contiguous", "channels last")]
    return f"| {architecture} | {' | '.join(cells)} | {ratios[0]:.2f} | {ratios[1]:.2f} | {difference:.1e} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"\n{options.images} images of {SIDE} px, {options.threads} threads, medians of {options.rounds} rounds\n")
    print("| model | ours s | contiguous s | channels last s | ours/contiguous | ours/channels last | difference |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for architecture in options.models:
        print(measure(architecture, options.images, options.rounds), flush=True)


if __name__ == "__main__":
    main()
