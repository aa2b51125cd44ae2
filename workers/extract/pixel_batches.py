"""Batches of 8-bit pixels, decoded and resized in the background while a network computes.

B images of a batch, H x W pixels, C = 3 channels
"""

import itertools
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from workers.zoo.preprocessing import Preprocessor

AHEAD = 2
"""Finished batches that may wait: memory stays bounded and the network never starves."""


class PixelBatches:
    """A thread that iterates the images, decodes and resizes them, and hands over batches (B, H, W, C) in order.

    A thread and not a process: Pillow lets other threads run while it works, and forking after torch has started
    threads can hang.
    """

    def __init__(self, preprocess: Preprocessor, images: Iterable[Image.Image], batch_size: int, *, pin: bool) -> None:
        """Prepare; work starts on entering the context.

        Args:
            preprocess: the network's own.
            images: RGB images.
            batch_size: images a batch; the last one may be smaller.
            pin: put batches into page-locked memory, from which a GPU copies without waiting.
        """
        self.decode_seconds = 0.0
        self.preprocess_seconds = 0.0
        self._preprocess = preprocess
        self._images = images
        self._batch_size = batch_size
        self._pin = pin
        self._queue: queue.Queue[Tensor | BaseException | None] = queue.Queue(maxsize=AHEAD)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="pixel-batches", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the thread and wait for the image it is at."""
        self._closing.set()
        while self._thread.is_alive():
            self._drain()
            self._thread.join(timeout=0.05)

    def next(self) -> Tensor | None:
        """Return the next batch, or None after the last.

        Raises:
            Exception: what the thread met while iterating or decoding.
        """
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def _drain(self) -> None:
        """Make room, so that a thread that waits for it finds out that nobody wants its batch."""
        while not self._queue.empty():
            self._queue.get_nowait()

    def _work(self) -> None:
        try:
            for batch_BHWC in self._batches():
                if self._closing.is_set():
                    return
                self._queue.put(batch_BHWC)
            self._queue.put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the calling thread, which raises it
            self._queue.put(error)

    def _batches(self) -> Iterator[Tensor]:
        remaining = iter(self._images)
        while pixels := [self._pixels(image) for image in self._decoded(remaining)]:
            batch_BHWC = torch.from_numpy(np.stack(pixels))
            yield batch_BHWC.pin_memory() if self._pin else batch_BHWC

    def _decoded(self, remaining: Iterator[Image.Image]) -> Iterator[Image.Image]:
        start = time.perf_counter()
        for image in itertools.islice(remaining, self._batch_size):
            image.load()
            self.decode_seconds += time.perf_counter() - start
            if self._closing.is_set():
                return
            yield image
            start = time.perf_counter()

    def _pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        start = time.perf_counter()
        pixels_HWC = self._preprocess.pixels(image)
        self.preprocess_seconds += time.perf_counter() - start
        return pixels_HWC
