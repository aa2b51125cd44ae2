"""One pass of a network over images: features and source logits, decoding overlapped with computing.

N images, B images of a batch, H x W pixels, C = 3 channels, D features, Z source classes
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from app.domain.errors import EvaluationFailed
from app.domain.interruption import Interrupted
from workers.extract.memory import is_out_of_memory
from workers.extract.pixel_batches import PixelBatches
from workers.zoo.network import Network

EXTRACTOR_VERSION = "1"
"""Part of every cache key: raised by any change that can change a feature."""


@dataclass(frozen=True)
class Extraction:
    """What one pass found.

    ``logits_NZ`` is None for a network without a classifier. ``seconds``: ``decode`` and ``preprocess`` are spent in
    the background, ``forward`` and ``wait`` (for pixels) in the calling thread, ``total`` is wall time. ``batch_size``
    is the largest that fitted into memory.
    """

    features_ND: NDArray[np.float32]
    logits_NZ: NDArray[np.float32] | None
    seconds: dict[str, float]
    batch_size: int


def extract(
    network: Network,
    images: Iterable[Image.Image],
    *,
    batch_size: int,
    on_progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Extraction:
    """Pass every image through ``network`` once, in order.

    The same images give the same features, whatever the batch size, to 1e-5 of their scale. A batch that does not fit
    into memory is halved, and so are those after it.

    Args:
        network: as ``load_network`` returns it; computes on its own device.
        images: RGB images, decoded lazily or not; iterated in a background thread.
        batch_size: images a batch.
        on_progress: called with the number of images done after each batch.
        should_stop: asked between batches.

    Raises:
        Interrupted: ``should_stop`` said so.
        EvaluationFailed: ``out_of_memory`` where even one image does not fit; ``non_finite_features``.
        Exception: whatever iterating or decoding ``images`` raised.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    start = time.perf_counter()
    forward_seconds = wait_seconds = 0.0
    features: list[NDArray[np.float32]] = []
    logits: list[NDArray[np.float32]] = []
    done = 0
    fitting = batch_size
    with PixelBatches(network.preprocess, images, batch_size, pin=network.device.type == "cuda") as batches:
        while True:
            if should_stop is not None and should_stop():
                raise Interrupted(f"Stopped after {done} images.")
            waiting = time.perf_counter()
            pixels_BHWC = batches.next()
            computing = time.perf_counter()
            wait_seconds += computing - waiting
            if pixels_BHWC is None:
                break
            features_BD, logits_BZ, fitting = _pass(network, pixels_BHWC, fitting)
            _refuse_non_finite(features_BD, logits_BZ, done)
            features.append(features_BD)
            if logits_BZ is not None:
                logits.append(logits_BZ)
            done += len(features_BD)
            forward_seconds += time.perf_counter() - computing
            if on_progress is not None:
                on_progress(done)
        seconds = {"decode": batches.decode_seconds, "preprocess": batches.preprocess_seconds}
    seconds |= {"forward": forward_seconds, "wait": wait_seconds, "total": time.perf_counter() - start}
    if not features:
        features.append(np.zeros((0, network.feature_dim), np.float32))
        if network.num_classes is not None:
            logits.append(np.zeros((0, network.num_classes), np.float32))
    return Extraction(
        features_ND=np.concatenate(features),
        logits_NZ=np.concatenate(logits) if logits else None,
        seconds=seconds,
        batch_size=fitting,
    )


def _pass(
    network: Network, pixels_BHWC: Tensor, fitting: int
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, int]:
    """Pass a batch through in parts of at most ``fitting`` images; return also the size that fitted."""
    features: list[NDArray[np.float32]] = []
    logits: list[NDArray[np.float32]] = []
    start = 0
    while start < len(pixels_BHWC):
        part_BHWC = pixels_BHWC[start : start + fitting]
        try:
            with torch.inference_mode():
                batch_BCHW = network.preprocess(part_BHWC.to(network.device, non_blocking=True))
                features_BD, logits_BZ = network(batch_BCHW)
                features_BD = features_BD.float().cpu()
                logits_BZ = None if logits_BZ is None else logits_BZ.float().cpu()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if fitting == 1:
                raise EvaluationFailed(
                    "out_of_memory",
                    f"one image of {tuple(part_BHWC.shape[1:3])} pixels does not fit into memory ({network.device})",
                    hint="Use a worker with more memory, or a smaller model.",
                ) from error
        else:
            features.append(features_BD.numpy())
            if logits_BZ is not None:
                logits.append(logits_BZ.numpy())
            start += len(part_BHWC)
            continue
        # Only here, out of the except block, is the traceback gone that kept the failed pass's tensors alive.
        fitting = max(1, min(fitting, len(part_BHWC)) // 2)
        if network.device.type == "cuda":
            torch.cuda.empty_cache()
    return np.concatenate(features), np.concatenate(logits) if logits else None, fitting


def _refuse_non_finite(features_BD: NDArray[np.float32], logits_BZ: NDArray[np.float32] | None, done: int) -> None:
    finite_B = np.isfinite(features_BD).all(axis=1)
    if logits_BZ is not None:
        finite_B &= np.isfinite(logits_BZ).all(axis=1)
    if not finite_B.all():
        raise EvaluationFailed(
            "non_finite_features",
            f"the network turned image {done + int(np.argmin(finite_B))} into NaN or infinity",
            hint="Check the model's preprocessing; a healthy network is finite on every image.",
        )
