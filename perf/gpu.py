"""What a worker's device does with features: precision, batches, memory layout, compilation, decoding, memory, sharing.

    .venv/bin/python -m perf.gpu [--device cuda] [--models NAME ...] [--parts NAME ...] [--images N] [--side N]

Every comparison takes turns in one process over the same images; a rate is that of the median pass. Networks have
random weights of their libraries' own initialisation: rates do not depend on them; for the errors of trained networks
see perf/precision.py. Runs on a CPU too, where it says little.

B images of a batch, D features
"""

import argparse
import io
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import get_model

from app.domain.model_spec import Head, ModelSpec, Preprocessing, SafetensorsSource
from workers.extract.features import extract
from workers.extract.part_size import PartSize
from workers.extract.pixel_batches import PixelBatches
from workers.extract.precision import Precision, forward, pin_arithmetic
from workers.extract.precision_check import CHECKED_IMAGES, check_precision
from workers.zoo.device_cost import device_name
from workers.zoo.network import Network, load_network

MODELS = ("torchvision:resnet50", "timm:efficientnet_lite0", "timm:vit_small_patch16_224", "timm:convnext_tiny")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PHOTO = (500, 375)
PHOTOS = Path(__file__).parents[1] / "zoo" / "photos"


@dataclass(frozen=True)
class Setting:
    """What is measured: on which device, with how many images of which side, and for how long a pass is repeated."""

    device: str
    models: tuple[str, ...]
    images: int
    side: int
    seconds: float
    batches: tuple[int, ...]
    threads: tuple[int, ...]


@contextmanager
def network_of(architecture: str, setting: Setting) -> Iterator[Network]:
    """Yield a network with random weights, as a worker loads it."""
    library, _, name = architecture.partition(":")
    torch.manual_seed(0)
    module = timm.create_model(name) if library == "timm" else get_model(name, weights=None)
    with TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        save_file(module.state_dict(), weights)
        size = setting.side, setting.side
        spec = ModelSpec(
            name=name,
            source=SafetensorsSource(uri=weights.as_uri(), sha256="0" * 64),
            architecture=architecture,
            preprocessing=Preprocessing(resize=setting.side, crop=size, interpolation="bilinear", mean=MEAN, std=STD),
            head=Head(num_classes=1000, label_set="imagenet1k"),
        )
        yield load_network(spec, weights, setting.device)


def photos(count: int) -> list[bytes]:
    """Return JPEG files of the packaged photos, each cut out elsewhere."""
    originals = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))]
    random = np.random.default_rng(0)
    files = []
    for number in range(count):
        image = originals[number % len(originals)]
        left, top = (int(random.integers(0, side // 4)) for side in image.size)
        file = io.BytesIO()
        image.crop((left, top, *image.size)).resize(PHOTO).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def pixels(network: Network, batch: int) -> Tensor:
    """Return noise (B, H, W, 3) on the network's device."""
    height, width = network.preprocess.steps.crop
    return torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, device=network.device)


def median_seconds(passes: dict[str, Callable[[], object]], setting: Setting) -> dict[str, float]:
    """Return the median time of each pass, warmed up and taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in passes}
    for run in passes.values():
        run()
        run()
    started = time.perf_counter()
    while time.perf_counter() - started < setting.seconds or not all(taken.values()):
        for name, run in passes.items():
            _wait(setting)
            before = time.perf_counter()
            run()
            _wait(setting)
            taken[name].append(time.perf_counter() - before)
    return {name: statistics.median(times) for name, times in taken.items()}


def precision_table(setting: Setting) -> Iterable[list[object]]:
    """Precisions and batch sizes: images a second, and errors as the worker's own check sees them."""
    yield ["model", "batch", *(f"{one}, images/s" for one in PRECISIONS), "error bfloat16", "error float16"]
    files = photos(CHECKED_IMAGES)
    for model in setting.models:
        with network_of(model, setting) as network, torch.inference_mode():
            checks = [check_precision(network, files, one) for one in PRECISIONS[1:]]
            errors = [f"{one.relative_error:.4f}" if one.relative_error is not None else one.reason for one in checks]
            for batch in setting.batches:
                batch_BCHW = network.preprocess(pixels(network, batch))
                passes = {one: partial(forward, network, batch_BCHW, one) for one in PRECISIONS}
                seconds = median_seconds(passes, setting)
                yield [model, batch, *(f"{batch / seconds[one]:,.0f}" for one in PRECISIONS), *errors]


def layout_table(setting: Setting) -> Iterable[list[object]]:
    """Channels-last memory against contiguous, and cuDNN's own choice of algorithms against a measured one."""
    yield ["model", "precision", "contiguous, images/s", "channels last, images/s", "and cudnn.benchmark, images/s"]
    batch = setting.batches[-1]
    for model in setting.models:
        with network_of(model, setting) as network, network_of(model, setting) as contiguous, torch.inference_mode():
            contiguous.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            batch_BCHW = network.preprocess(pixels(network, batch))
            for precision in ("float32", "float16"):
                run = partial(forward, network, batch_BCHW, precision)
                passes: dict[str, Callable[[], object]] = {
                    "contiguous": partial(forward, contiguous, batch_BCHW.contiguous(), precision),
                    "channels last": run,
                    "benchmark": partial(_benchmarked, run),
                }
                seconds = median_seconds(passes, setting)
                yield [model, precision, *(f"{batch / seconds[name]:,.0f}" for name in passes)]


def compile_table(setting: Setting) -> Iterable[list[object]]:
    """What torch.compile costs once for a model and a shape, what it gains, and after how many images it pays."""
    yield ["model", "compile s", "eager, images/s", "compiled, images/s", "pays after images"]
    batch = setting.batches[-1]
    precision: Precision = "float16" if setting.device.startswith("cuda") else "float32"
    for model in setting.models:
        with network_of(model, setting) as network, torch.inference_mode():
            batch_BCHW = network.preprocess(pixels(network, batch))
            compiled = Network(torch.compile(network.trunk), network.head, network.preprocess)  # type: ignore[arg-type]
            started = time.perf_counter()
            forward(compiled, batch_BCHW, precision)
            _wait(setting)
            cost = time.perf_counter() - started
            passes = {"eager": partial(forward, network, batch_BCHW, precision)}
            passes["compiled"] = partial(forward, compiled, batch_BCHW, precision)
            seconds = median_seconds(passes, setting)
            gain = (seconds["eager"] - seconds["compiled"]) / batch
            pays = f"{cost / gain:,.0f}" if gain > 0 else "never"
            yield [model, f"{cost:.0f}", *(f"{batch / seconds[name]:,.0f}" for name in passes), pays]


def decode_table(setting: Setting) -> Iterable[list[object]]:
    """Threads that decode JPEG photos: alone, and with the first model computing."""
    yield ["decoding threads", "decoding alone, images/s", f"with {setting.models[0]}, images/s", "waited for pixels"]
    files, batch = photos(setting.images), setting.batches[-1]
    precision: Precision = "float16" if setting.device.startswith("cuda") else "float32"
    with network_of(setting.models[0], setting) as network:
        size = PartSize(batch, seconds=1000)
        extract(network, files[:batch], batch_size=batch, precision=precision, part_size=size)
        for threads in setting.threads:
            started = time.perf_counter()
            is_gpu = network.device.type == "cuda"
            with PixelBatches(network.preprocess, files, batch, pin=is_gpu, threads=threads) as batches:
                while batches.next() is not None:
                    pass
            alone = len(files) / (time.perf_counter() - started)
            found = extract(
                network, files, batch_size=batch, precision=precision, part_size=size, decode_threads=threads
            ).seconds
            waited = f"{found['wait'] / found['total']:.0%}"
            yield [threads, f"{alone:,.0f}", f"{len(files) / found['total']:,.0f}", waited]


def memory_table(setting: Setting) -> Iterable[list[object]]:
    """Batches that do not fit: what becomes of them, and what of the data set after them."""
    yield ["model", "asked for", "fitted", "images/s", "the next data set, images/s", "memory kept after it, MB"]
    if not setting.device.startswith("cuda"):
        yield ["on a CPU it is tests/workers/extract/test_features.py that runs out of memory", *[""] * 5]
        return
    room = torch.cuda.get_device_properties(setting.device).total_memory
    for model in setting.models:
        with network_of(model, setting) as network:
            # A tensor of a batch's first layers takes a hundred times its pixels: the device cannot hold these.
            asked = max(64, room // (setting.side**2 * 3 * 40))
            files = photos(1) * (asked + asked // 2)
            size = PartSize(asked, seconds=1000)
            rates = []
            for _ in range(2):
                started = time.perf_counter()
                extract(network, files, batch_size=asked, part_size=size, decode_threads=8)
                rates.append(f"{len(files) / (time.perf_counter() - started):,.0f}")
            torch.cuda.empty_cache()
            yield [model, asked, size.fitting, *rates, f"{torch.cuda.memory_reserved() / 1e6:,.0f}"]


def sharing_table(setting: Setting) -> Iterable[list[object]]:
    """One process on the device against two at the same time."""
    yield ["model", "one process, images/s", "two processes, images/s together"]
    context = multiprocessing.get_context("spawn")
    for model in setting.models:
        rates = []
        for processes in (1, 2):
            barrier = context.Barrier(processes)
            with ProcessPoolExecutor(processes, context, initializer=_share, initargs=(barrier,)) as pool:
                rates.append(sum(pool.map(_rate_beside_others, [replace(setting, models=(model,))] * processes)))
        yield [model, *(f"{rate:,.0f}" for rate in rates)]


_barrier: Any = None


def _share(barrier: Any) -> None:
    global _barrier  # a pool's process can be handed one in no other way
    _barrier = barrier


def _rate_beside_others(setting: Setting) -> float:
    """Return the images a second of this process, which begins when the others do."""
    pin_arithmetic()
    batch = setting.batches[-1]
    precision: Precision = "float16" if setting.device.startswith("cuda") else "float32"
    with network_of(setting.models[0], setting) as network, torch.inference_mode():
        batch_BCHW = network.preprocess(pixels(network, batch))
        run = partial(forward, network, batch_BCHW, precision)
        run()
        _wait(setting)
        _barrier.wait()
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < setting.seconds:
            run()
            _wait(setting)
            done += batch
        return done / (time.perf_counter() - started)


def _benchmarked(run: Callable[[], object]) -> object:
    torch.backends.cudnn.benchmark = True
    try:
        return run()
    finally:
        torch.backends.cudnn.benchmark = False


def _wait(setting: Setting) -> None:
    if setting.device.startswith("cuda"):
        torch.cuda.synchronize()


TABLES: dict[str, Callable[[Setting], Iterable[list[object]]]] = {
    "precision": precision_table,
    "layout": layout_table,
    "compile": compile_table,
    "decode": decode_table,
    "memory": memory_table,
    "sharing": sharing_table,
}


def main() -> None:
    """Print a table for each part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--parts", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--images", type=int, default=2000, help="that are decoded")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=3.0, help="for which passes are repeated")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parser.parse_args()
    setting = Setting(
        device=options.device,
        models=tuple(options.models),
        images=options.images,
        side=options.side,
        seconds=options.seconds,
        batches=tuple(options.batches),
        threads=tuple(options.threads),
    )
    pin_arithmetic()
    if setting.device == "cpu":
        torch.set_num_threads(1)  # threads that wait for each other say nothing of a GPU
    print(f"{device_name(torch.device(setting.device))}, torch {torch.__version__}, {setting.side} pixels")
    for part in options.parts:
        print(f"\n{part}: {(TABLES[part].__doc__ or '').partition(chr(10))[0]}\n")
        for number, cells in enumerate(TABLES[part](setting)):
            print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)
            if number == 0:
                print(f"|{'---|' * len(cells)}", flush=True)


if __name__ == "__main__":
    main()
