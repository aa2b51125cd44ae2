"""The preprocessed pixels of a data set, in any order: held in memory where they fit, else decoded again each time.

N images, B images of a batch, H x W pixels, 3 channels
"""

from collections.abc import Callable, Generator, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from workers.extract.pixel_batches import PixelBatches
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
    ) -> None:
        """Decode all images now where they fit into memory.

        Args:
            preprocess: the network's own.
            read: gives the images of rows of the data set, such as ``partial(iter_images, shard)``.
            rows: ascending rows of the data set that are images 0 to N - 1 of the store.
            memory_limit: bytes of pixels that may be held.
            pin: put streamed batches into page-locked memory, from which a GPU copies without waiting.

        Raises:
            Exception: whatever reading the images raised.
        """
        height, width = preprocess.steps.crop
        self.nbytes = len(rows) * height * width * 3
        self._preprocess = preprocess
        self._read = read
        self._rows_N = rows
        self._pin = pin
        self._pixels_NHWC: Tensor | None = None
        if self.nbytes <= memory_limit:
            pixels_NHWC = torch.empty((len(rows), height, width, 3), dtype=torch.uint8)
            everything = np.arange(len(rows))
            start = 0
            for batch_BHWC in self._decoded([everything], _LOADED_TOGETHER):
                pixels_NHWC[start : start + len(batch_BHWC)] = batch_BHWC
                start += len(batch_BHWC)
            self._pixels_NHWC = pixels_NHWC

    def __len__(self) -> int:
        """Return N."""
        return len(self._rows_N)

    @property
    def in_memory(self) -> bool:
        """Whether the pixels are held."""
        return self._pixels_NHWC is not None

    def batches(self, images: Sequence[NDArray[np.intp]]) -> Generator[Tensor, None, None]:
        """Yield the pixels (B, H, W, 3) of each batch of images, in the background where they are decoded again.

        Args:
            images: ascending image numbers of each batch; all batches but the last are of one size.

        The iterator holds a thread while it is not exhausted: close it.
        """
        if self._pixels_NHWC is None:
            yield from self._decoded(images, max((len(batch) for batch in images), default=1))
            return
        for images_B in images:
            yield self._pixels_NHWC[torch.from_numpy(images_B)]

    def _decoded(self, images: Sequence[NDArray[np.intp]], batch_size: int) -> Generator[Tensor, None, None]:
        read = (image for images_B in images for image in self._read(self._rows_N[images_B]))
        with PixelBatches(self._preprocess, read, batch_size, pin=self._pin) as batches:
            while (pixels_BHWC := batches.next()) is not None:
                yield pixels_BHWC
