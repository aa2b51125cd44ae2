"""Gradients of four scalars of the features, image by image: time and memory against training, and fidelity.

Time: the median of turns that alternate with a plain forward and backward pass of the same batch, which computes the
gradient of every parameter. Memory: how far a fresh process's peak rises above what it held before (Linux). Other
packages compute whole gradients of one scalar, or their inner products, on fewer images, each in a process that is
ended after a while. Weights are random: neither time nor memory depends on them.

Fidelity: the label-gradient correlation (arXiv:2102.00084, Eq. 8) by the usual sketch against whole gradients.
"""

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from scipy.stats import kendalltau
from torch import Tensor, nn
from torchvision.models import get_model

from app.domain.model_spec import Preprocessing
from perf.scores import peak_mib, reset_peak
from workers.extract.gradients import gradient_sketches, random_probes
from workers.zoo.classifiers import TimmTrunk
from workers.zoo.network import Network
from workers.zoo.preprocessing import Preprocessor

MODELS = ("resnet18", "mobilenet_v2", "timm:tf_efficientnet_lite0", "timm:vit_tiny_patch16_224")
PEERS = {"torch.func": (), "BackPACK": ("backpack-for-pytorch==1.7.1",), "nngeometry": ("nngeometry==0.4",)}
PEERS_FOLDER = Path(".cache/peers-gradients")
PROBES = 4
SAMPLE = Path("examples/fashion-mnist-sample.zip")
SMALL = (
    "timm:test_resnet", "timm:test_efficientnet", "timm:test_byobnet", "timm:test_convnext",
    "timm:test_efficientnet_gn", "timm:test_efficientnet_ln", "timm:test_mambaout", "timm:resnet10t",
    "timm:mobilenetv3_small_050", "timm:mobilenetv2_035", "timm:lcnet_050", "squeezenet1_1",
    "shufflenet_v2_x0_5", "mnasnet0_5",
)  # fmt: skip


def network_of(name: str, side: int) -> Network:
    """Return a network with random weights and channels-last memory, as the zoo loads them."""
    torch.manual_seed(0)
    if name.startswith("timm:"):
        trunk: nn.Module = TimmTrunk(timm.create_model(name.removeprefix("timm:")))
    else:
        trunk = get_model(name, weights=None)
        if hasattr(trunk, "fc"):
            trunk.fc = nn.Identity()
        elif name.startswith("squeezenet"):
            trunk.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1))
        else:
            trunk.classifier = nn.Identity()
    for part in trunk.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
    half = (0.5, 0.5, 0.5)
    steps = Preprocessing(resize=side, crop=(side, side), interpolation="bilinear", mean=half, std=half)
    network = Network(trunk, None, Preprocessor(steps)).requires_grad_(False)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def noise(count: int, side: int) -> list[Image.Image]:
    """Return images of noise."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def batch_of(network: Network, images: list[Image.Image]) -> Tensor:
    """Return images as the network's input."""
    return network.preprocess(torch.from_numpy(np.stack([network.preprocess.pixels(image) for image in images])))


def plain(network: Network, batch_BCHW: Tensor, direction_D: Tensor) -> None:
    """Pass a batch forward and backward, with the gradient of every parameter."""
    network.trunk.requires_grad_(True)
    (network.trunk(batch_BCHW) @ direction_D).sum().backward()
    network.trunk.zero_grad(set_to_none=True)
    network.trunk.requires_grad_(False)


def ours(network: Network, images: list[Image.Image], directions_DP: np.ndarray) -> float:
    """Sketch the gradients of all probes and return the seconds of the passes over the images."""
    seconds = gradient_sketches(network, images, directions_DP, batch_size=len(images)).seconds
    return seconds["forward"] + seconds["backward"]


def vmapped(network: Network, batch_BCHW: Tensor, direction_D: Tensor) -> None:
    """Compute whole gradients by torch.func, and their inner products."""
    parameters = {name: parameter.detach() for name, parameter in network.trunk.named_parameters()}

    def scalar(own: dict[str, Tensor], image_CHW: Tensor) -> Tensor:
        return torch.func.functional_call(network.trunk, own, (image_CHW[None],))[0] @ direction_D

    found = torch.func.vmap(torch.func.grad(scalar), in_dims=(None, 0))(parameters, batch_BCHW)
    sum(gradient.flatten(1) @ gradient.flatten(1).T for gradient in found.values())


def backpacked(network: Network, batch_BCHW: Tensor, direction_D: Tensor) -> None:
    """Compute whole gradients by BackPACK, and their inner products."""
    backpack = importlib.import_module("backpack")
    extension = importlib.import_module("backpack.extensions").BatchGrad()
    head = nn.Linear(len(direction_D), 1, bias=False)
    head.weight.data.copy_(direction_D[None])
    for part in network.trunk.modules():
        if hasattr(part, "inplace"):
            part.inplace = False
    network.trunk.requires_grad_(True)
    model = backpack.extend(nn.Sequential(network.trunk, head), use_converter=True).eval()
    with backpack.backpack(extension):
        model(batch_BCHW).sum().backward()
    kernel = 0.0
    for parameter in model.parameters():
        if hasattr(parameter, "grad_batch"):
            kernel = kernel + parameter.grad_batch.flatten(1) @ parameter.grad_batch.flatten(1).T


def with_nngeometry(network: Network, batch_BCHW: Tensor, direction_D: Tensor) -> None:
    """Compute the kernel by nngeometry."""
    head = nn.Linear(len(direction_D), 1, bias=False)
    head.weight.data.copy_(direction_D[None])
    network.trunk.requires_grad_(True)
    model = nn.Sequential(network.trunk, head).eval()
    layers = importlib.import_module("nngeometry.layercollection").LayerCollection.from_model(model)
    gram_matrix = importlib.import_module("nngeometry.gram").GramMatrix
    data = torch.utils.data.TensorDataset(batch_BCHW, torch.zeros(len(batch_BCHW)))
    loader = torch.utils.data.DataLoader(data, batch_size=len(batch_BCHW))
    gram_matrix(model, loader, function=lambda batch, _: model(batch), layer_collection=layers).to_torch()


OTHERS: dict[str, Callable[[Network, Tensor, Tensor], None]] = {
    "torch.func": vmapped,
    "BackPACK": backpacked,
    "nngeometry": with_nngeometry,
}


def child(name: str, what: str, side: int, images: int, threads: int, turns: int) -> None:
    """Measure one thing in this process and print it as JSON."""
    torch.set_num_threads(threads)
    sys.path.insert(0, str(PEERS_FOLDER))
    network, pictures = network_of(name, side), noise(images, side)
    batch_BCHW = batch_of(network, pictures)
    with torch.inference_mode():
        dimensions = network.trunk(batch_BCHW[:1]).shape[1]
    directions_DP = random_probes(dimensions, PROBES)
    direction_D = torch.from_numpy(directions_DP[:, 0])
    reset_peak()
    before = peak_mib()
    found: dict[str, float] = {}
    if what == "plain":
        plain(network, batch_BCHW, direction_D)
    elif what == "sketch":
        ours(network, pictures, directions_DP)
    elif what in OTHERS:
        started = time.perf_counter()
        OTHERS[what](network, batch_BCHW, direction_D)
        found["seconds"] = time.perf_counter() - started
    else:
        theirs, own = [], []
        for _ in range(turns + 1):
            started = time.perf_counter()
            plain(network, batch_BCHW, direction_D)
            theirs.append(time.perf_counter() - started)
            own.append(ours(network, pictures, directions_DP) / PROBES)
        found = {"plain": statistics.median(theirs[1:]), "sketch": statistics.median(own[1:])}
    print(json.dumps(found | {"peak_mib": peak_mib() - before}))


def measured(name: str, what: str, options: argparse.Namespace, images: int) -> dict[str, float] | str:
    """Measure in a fresh process; return what it found or, in a few words, why it did not."""
    command = [sys.executable, "-W", "ignore", "-m", "perf.gradients", "--child", name, what, "--images", str(images)]
    command += ["--side", str(options.side), "--threads", str(options.threads), "--turns", str(options.turns)]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=options.limit)
    except subprocess.TimeoutExpired:
        return f"over {options.limit} s"
    if process.returncode:
        return "failed: " + (process.stderr.strip().splitlines() or ["killed"])[-1][:80].replace("|", "/")
    found: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return found


def install() -> None:
    """Install the other packages beside the project; what cannot be installed fails in its row."""
    for name, requirements in PEERS.items():
        if requirements and not any(PEERS_FOLDER.glob(f"{name.lower()}*")):
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(PEERS_FOLDER)]
            extra = ("einops", "unfoldNd") if name == "BackPACK" else ()
            subprocess.run([*command, *requirements, *extra], check=False)


def speed(options: argparse.Namespace) -> None:
    """Print time and memory of every model."""
    print(f"\n{options.images} images of {options.side} px, {options.threads} threads, {PROBES} probes\n")
    print("| model | forward-backward s | sketches s a probe | ratio | forward-backward MiB | sketches MiB |")
    print("|---|--:|--:|--:|--:|--:|")
    for name in options.models:
        timed = measured(name, "time", options, options.images)
        peaks = [measured(name, what, options, options.images) for what in ("plain", "sketch")]
        if isinstance(timed, str):
            print(f"| {name} | {timed} | | | | |", flush=True)
            continue
        mib = [found if isinstance(found, str) else f"{found['peak_mib']:.0f}" for found in peaks]
        ratio = timed["sketch"] / timed["plain"]
        print(
            f"| {name} | {timed['plain']:.2f} | {timed['sketch']:.2f} | {ratio:.2f} | {mib[0]} | {mib[1]} |", flush=True
        )


def peers(options: argparse.Namespace) -> None:
    """Print what other packages take for the kernel of one scalar."""
    install()
    few = options.peer_images
    print(f"\nThe kernel of one scalar for {few} images; for ours, of {PROBES} scalars, divided by {PROBES}\n")
    print("| model | forward-backward s | ours s |" + "".join(f" {name} s (MiB) |" for name in OTHERS))
    print("|---|--:|--:|" + "--:|" * len(OTHERS))
    for name in options.models:
        timed = measured(name, "time", options, few)
        cells = [timed] if isinstance(timed, str) else [f"{timed['plain']:.2f}", f"{timed['sketch']:.2f}"]
        for other in OTHERS:
            found = measured(name, other, options, few)
            cells.append(found if isinstance(found, str) else f"{found['seconds']:.2f} ({found['peak_mib']:.0f})")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def sample(per_class: int) -> tuple[list[Image.Image], np.ndarray]:
    """Return images of the example's archive and their labels."""
    images, labels, taken = [], [], dict[str, int]()
    with zipfile.ZipFile(SAMPLE) as archive:
        for member in sorted(archive.namelist()):
            label = Path(member).parent.name
            if member.endswith((".png", ".jpg")) and taken.get(label, 0) < per_class:
                taken[label] = taken.get(label, 0) + 1
                images.append(Image.open(BytesIO(archive.read(member))).convert("RGB"))
                labels.append(label)
    return images, np.unique(labels, return_inverse=True)[1]


def correlation(kernel_NN: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the label-gradient correlation of a mean kernel over all pairs (Eq. 8)."""
    same_NN = np.where(labels_N[:, None] == labels_N, 1.0, -1.0)
    return float(np.corrcoef(kernel_NN.ravel(), same_NN.ravel())[0, 1])


def fidelity(options: argparse.Namespace) -> None:
    """Print the correlations by sketches and by whole gradients, and how well their rankings agree."""
    torch.set_num_threads(options.threads)
    images, labels_N = sample(options.per_class)
    print(f"\nLabel-gradient correlation of {len(images)} images of 64 px\n")
    print("| model | parameters | numbers kept | whole | sketched | error of the centred kernel |")
    print("|---|--:|--:|--:|--:|--:|")
    values = []
    for name in SMALL:
        network = network_of(name, 64)
        with torch.inference_mode():
            dimensions = network.trunk(batch_of(network, images[:1])).shape[1]
        pass_over = partial(gradient_sketches, network, images, random_probes(dimensions, PROBES), batch_size=8)
        kernels, row = [], []
        for sketch in ({"sketch": None}, {}):
            found = pass_over(**sketch)
            kernel = found.kernels().mean()
            towards_N = kernel.towards_mean_PN[0]
            whole_NN = kernel.centred_PNN[0] + towards_N[:, None] + towards_N + kernel.mean_square_P[0]
            kernels.append(kernel.centred_PNN[0])
            row.append(correlation(whole_NN, labels_N))
        error = np.linalg.norm(kernels[1] - kernels[0]) / np.linalg.norm(kernels[0])
        kept = sum(layer.shape[2] for layer in found.layers)
        values.append(row)
        print(f"| {name} | {found.parameters} | {kept} | {row[0]:.4f} | {row[1]:.4f} | {error:.3f} |", flush=True)
    whole, sketched = np.array(values).T
    print(f"\nKendall's tau over {len(values)} models: {kendalltau(whole, sketched).statistic:.2f}; "
          f"median relative error {np.median(np.abs(sketched / whole - 1)):.1%}")  # fmt: skip


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "WHAT"), help="used by the script itself")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--tables", nargs="+", choices=("speed", "peers", "fidelity"))
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--peer-images", type=int, default=4)
    parser.add_argument("--per-class", type=int, default=4)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--limit", type=int, default=120, help="seconds that anything measured may take")
    options = parser.parse_args()
    if options.child:
        child(*options.child, options.side, options.images, options.threads, options.turns)
        return
    for table in options.tables or ("speed", "peers", "fidelity"):
        {"speed": speed, "peers": peers, "fidelity": fidelity}[table](options)


if __name__ == "__main__":
    main()
