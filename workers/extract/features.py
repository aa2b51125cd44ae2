"""One pass of a network over images: features and source logits, decoding overlapped with computing.

N images, B images of a batch, H x W pixels, C = 3 channels, D features, Z source classes
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.domain.errors import EvaluationFailed
from app.domain.interruption import Interrupted
from workers.extract.memory import is_out_of_memory, release_memory
from workers.extract.part_size import PartSize
from workers.extract.pixel_batches import ImageSource, PixelBatches
from workers.extract.precision import Precision, PrecisionCheck, forward
from workers.zoo.network import Network

EXTRACTOR_VERSION = "1"
"""Part of every cache key: raised by any change that can change a feature."""


@dataclass(frozen=True)
class Extraction:
    """What one pass found.

    ``logits_NZ`` is None for a network without a classifier. ``seconds``: ``decode`` and ``preprocess`` are spent in
    the background, added up over its threads, ``forward`` and ``wait`` (for pixels) in the calling thread, ``total`` is
    wall time. ``batch_size`` is the largest that fitted into memory, ``precision`` that in which the network computed,
    and ``check`` how a reduced one was found to do, where one was wanted.
    """

    features_ND: NDArray[np.float32]
    logits_NZ: NDArray[np.float32] | None
    seconds: dict[str, float]
    batch_size: int
    precision: Precision = "float32"
    check: PrecisionCheck | None = None


def extract(
    network: Network,
    images: Iterable[ImageSource],
    *,
    batch_size: int,
    precision: Precision = "float32",
    part_size: PartSize | None = None,
    decode_threads: int = 1,
    on_progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Extraction:
    """Pass every image through ``network`` once, in order.

    The same images give the same features, whatever the batch size, to 1e-5 of their scale. A batch goes through the
    network in parts that fit into memory and take at most two seconds.

    Args:
        network: as ``load_network`` returns it; computes on its own device.
        images: RGB images, decoded lazily or not, or image files; iterated in a background thread.
        batch_size: images a batch.
        precision: in which the network computes; features are float32 in any case.
        part_size: what is known of the parts that the network takes, and will be; by default nothing.
        decode_threads: threads that decode and resize.
        on_progress: called with the number of images done after each part.
        should_stop: asked before each part.

    Raises:
        Interrupted: ``should_stop`` said so.
        EvaluationFailed: ``out_of_memory`` where even one image does not fit; ``non_finite_features``.
        Exception: whatever iterating or decoding ``images`` raised.
    """
    part_size = PartSize(batch_size) if part_size is None else part_size
    start = time.perf_counter()
    forward_seconds = wait_seconds = 0.0
    features: list[NDArray[np.float32]] = []
    logits: list[NDArray[np.float32]] = []
    done = 0
    is_gpu = network.device.type == "cuda"
    with PixelBatches(network.preprocess, images, batch_size, pin=is_gpu, threads=decode_threads) as batches:
        while True:
            waiting = time.perf_counter()
            _stop_if(should_stop, done)
            pixels_BHWC = batches.next()
            wait_seconds += time.perf_counter() - waiting
            if pixels_BHWC is None:
                break
            while len(pixels_BHWC):
                _stop_if(should_stop, done)
                computing = time.perf_counter()
                features_BD, logits_BZ = _part(network, pixels_BHWC, part_size, precision)
                _refuse_non_finite(features_BD, logits_BZ, done)
                features.append(features_BD)
                if logits_BZ is not None:
                    logits.append(logits_BZ)
                done += len(features_BD)
                pixels_BHWC = pixels_BHWC[len(features_BD) :]
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
        batch_size=min(part_size.fitting, batch_size),
        precision=precision,
    )


def _stop_if(should_stop: Callable[[], bool] | None, done: int) -> None:
    if should_stop is not None and should_stop():
        raise Interrupted(f"Stopped after {done} images.")


def _part(
    network: Network, pixels_BHWC: Tensor, part_size: PartSize, precision: Precision
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Pass the first images of a batch through, as many as fit into memory and are done soon."""
    while True:
        part_BHWC = pixels_BHWC[: part_size.images]
        started = time.perf_counter()
        try:
            found = _computed(network, part_BHWC, precision)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if not part_size.does_not_fit(len(part_BHWC)):
                raise EvaluationFailed(
                    "out_of_memory",
                    f"one image of {tuple(part_BHWC.shape[1:3])} pixels does not fit into memory ({network.device})",
                    hint="Use a worker with more memory, or a smaller model.",
                ) from error
        else:
            part_size.took(len(part_BHWC), time.perf_counter() - started)
            return found
        release_memory(network.device)


def _computed(
    network: Network, part_BHWC: Tensor, precision: Precision
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    with torch.inference_mode():
        batch_BCHW = network.preprocess(part_BHWC.to(network.device, non_blocking=True))
        features_BD, logits_BZ = forward(network, batch_BCHW, precision)
        return features_BD.cpu().numpy(), None if logits_BZ is None else logits_BZ.cpu().numpy()


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
