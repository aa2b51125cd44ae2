"""The preprocessed pixels of a data set, in any order: decoded once, held in memory where they fit, else in a file.

N images, B images of a batch, H x W pixels, 3 channels
"""

import math
import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from app.domain.errors import EvaluationFailed
from workers.extract.pixel_batches import PixelBatches
from workers.images import stopping
from workers.zoo.preprocessing import Preprocessor

ReadImages = Callable[[NDArray[np.intp]], Iterable[Image]]
"""Gives the RGB images of strictly ascending rows."""

MEMORY_LIMIT_BYTES = 2 * 2**30
_LOADED_TOGETHER = 256


class PixelStore:
    """8-bit pixels of N images, as the network's preprocessing makes them."""

    def __init__(
        self,
        preprocess: Preprocessor,
        read: ReadImages,
        rows: NDArray[np.intp],
        *,
        memory_limit: int = MEMORY_LIMIT_BYTES,
        pin: bool = False,
        should_stop: Callable[[], bool] | None = None,
        workspace: Path | None = None,
    ) -> None:
        """Decode all images now.

        Args:
            preprocess: the network's own.
            read: gives the images of rows of the data set, such as ``partial(iter_images, shard)``.
            rows: ascending rows of the data set that are images 0 to N - 1 of the store.
            memory_limit: bytes of pixels that may be held in memory.
            pin: put batches into page-locked memory, from which a GPU copies without waiting.
            should_stop: asked before each image.
            workspace: folder of the file; by default that for temporary files. Nothing is left there.

        Raises:
            Interrupted: ``should_stop`` said so.
            EvaluationFailed: ``no_room_on_disk``.
            Exception: whatever reading the images raised.
        """
        height, width = preprocess.steps.crop
        shape = len(rows), height, width, 3
        self.in_memory = math.prod(shape) <= memory_limit
        self._pin = pin
        self._pixels_NHWC = torch.empty(shape, dtype=torch.uint8) if self.in_memory else _in_file(shape, workspace)
        images = read(rows) if should_stop is None else stopping(read(rows), should_stop)
        start = 0
        with PixelBatches(preprocess, images, _LOADED_TOGETHER, pin=False) as batches:
            while (batch_BHWC := batches.next()) is not None:
                self._pixels_NHWC[start : start + len(batch_BHWC)] = batch_BHWC
                start += len(batch_BHWC)

    def __len__(self) -> int:
        """Return N."""
        return len(self._pixels_NHWC)

    def batches(self, images: Sequence[NDArray[np.intp]]) -> Generator[Tensor, None, None]:
        """Yield the pixels (B, H, W, 3) of each batch of image numbers."""
        for images_B in images:
            batch_BHWC = self._pixels_NHWC[torch.from_numpy(images_B)]
            yield batch_BHWC.pin_memory() if self._pin else batch_BHWC


def _in_file(shape: tuple[int, ...], workspace: Path | None) -> Tensor:
    """Return memory that the system may take back at any time: it is mapped to a file without a name."""
    size = math.prod(shape)
    try:
        with tempfile.TemporaryFile(dir=workspace) as file:
            # All at once: writing to a mapped file when there is no room kills the process.
            os.posix_fallocate(file.fileno(), 0, size)
            return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="r+", shape=shape))
    except OSError as error:
        raise EvaluationFailed(
            "no_room_on_disk",
            f"The pixels of {shape[0]} images do not fit into memory, and a temporary file of {size / 1e9:.1f} GB in "
            f"{workspace or tempfile.gettempdir()} failed: {error.strerror}.",
            hint="Make room there.",
        ) from error
