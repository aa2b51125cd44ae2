"""How long a real training step takes, measured with a few of them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from app.domain.finetuning import Recipe
from workers.finetune.pixels import PixelStore
from workers.finetune.training import Training
from workers.finetune.tuned_network import TunedNetwork
from workers.zoo.network import Network

WARM_UP = 2
STEPS = 7


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step: median and quartiles of ``steps`` measured ones.

    ``fitting`` is the number of images that went through at a time: below the batch size where memory was too small.
    """

    seconds: float
    low: float
    high: float
    steps: int
    batch_size: int
    fitting: int
    device: str


def measure_step(
    network: Network,
    num_classes: int,
    recipe: Recipe,
    *,
    steps: int = STEPS,
    warm_up: int = WARM_UP,
    should_stop: Callable[[], bool] | None = None,
) -> StepTime:
    """Time whole steps, forward, backward and update, on noise of the network's own input size.

    Pixels are ready in memory: decoding goes on in the background of a real training. The first steps, which allocate
    memory and choose algorithms, do not count.

    Args:
        network: a copy is trained; its own weights stay.
        num_classes: C.
        recipe: its batch size, momentum, loss and batch normalisation are used.
        steps: how many are measured.
        warm_up: steps before them.
        should_stop: asked between steps.

    Raises:
        Interrupted: ``should_stop`` said so.
        EvaluationFailed: ``out_of_memory``.
    """
    if steps < 1 or warm_up < 0:
        raise ValueError("at least one step must be measured")
    size = recipe.batch_size
    height, width = network.preprocess.steps.crop
    random = np.random.default_rng(0)

    def noise(rows: NDArray[np.intp]) -> Iterable[Image.Image]:
        return (Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in rows)

    store = PixelStore(network.preprocess, noise, np.arange(size))
    one_batch_an_epoch = replace(recipe, epochs=warm_up + steps, max_steps=None, schedule="constant")
    labels_N = np.arange(size, dtype=np.int64) % num_classes
    tuned = TunedNetwork.of(network, num_classes)
    training = Training(tuned, store, np.arange(size), labels_N, one_batch_an_epoch, learning_rate=1e-6)
    times = []
    for step in range(1, warm_up + steps + 1):
        _wait(tuned.device)
        start = time.perf_counter()
        training.run(step, should_stop=should_stop)
        _wait(tuned.device)
        times.append(time.perf_counter() - start)
    low, median, high = np.quantile(times[warm_up:], [0.25, 0.5, 0.75])
    return StepTime(float(median), float(low), float(high), steps, size, training.fitting, str(tuned.device))


def _wait(device: torch.device) -> None:
    """Wait for what a GPU has still to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
