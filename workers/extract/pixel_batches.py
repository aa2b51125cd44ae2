"""Batches of 8-bit pixels, decoded and resized in the background while a network computes.

B images of a batch, H x W pixels, C = 3 channels
"""

import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from app.ingest.shard import decode_image
from workers.zoo.preprocessing import Preprocessor

AHEAD = 2
"""Finished batches that may wait: memory stays bounded and the network never starves."""
_BEGUN = 4  # images a decoding thread that may be begun or wait to be put into a batch

ImageSource = Image.Image | bytes
"""An RGB image, decoded or opened lazily, or an image file as a data set keeps it."""
_Decoding = Future[tuple[NDArray[np.uint8], float, float]]


class PixelBatches:
    """A thread that iterates the images and hands over batches (B, H, W, C) in order, and others that decode for it.

    Threads and not processes: Pillow lets other threads run while it decodes and resizes, and forking after torch has
    started threads can hang. With one thread the iterating one decodes too; more of them help where images are files,
    since a lazily opened one may have been decoded by who iterates.
    """

    def __init__(
        self,
        preprocess: Preprocessor,
        images: Iterable[ImageSource],
        batch_size: int,
        *,
        pin: bool,
        threads: int = 1,
    ) -> None:
        """Prepare; work starts on entering the context.

        Args:
            preprocess: the network's own.
            images: RGB images, or files of images.
            batch_size: images a batch; the last one may be smaller.
            pin: put batches into page-locked memory, from which a GPU copies without waiting. PyTorch gives such memory
                to another batch only once copies from it have ended.
            threads: that decode and resize.
        """
        self.decode_seconds = 0.0
        self.preprocess_seconds = 0.0
        self._preprocess = preprocess
        self._images = images
        self._batch_size = batch_size
        self._pin = pin
        self._threads = threads
        self._queue: queue.Queue[Tensor | BaseException | None] = queue.Queue(maxsize=AHEAD)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="pixel-batches", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the threads and wait for the images they are at."""
        self._closing.set()
        while self._thread.is_alive():
            self._drain()
            self._thread.join(timeout=0.05)

    def next(self) -> Tensor | None:
        """Return the next batch, or None after the last.

        Raises:
            Exception: what the threads met first, in the order of the images, while iterating or decoding.
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
        height, width = self._preprocess.steps.crop
        decoded = self._decoded() if self._threads == 1 else self._decoded_by_many()
        for first_HWC in decoded:
            shape = self._batch_size, height, width, 3
            batch_BHWC = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pin)
            array_BHWC = batch_BHWC.numpy()
            filled = 0
            for pixels_HWC in itertools.chain([first_HWC], itertools.islice(decoded, self._batch_size - 1)):
                array_BHWC[filled] = pixels_HWC
                filled += 1
            yield batch_BHWC[:filled]

    def _decoded(self) -> Iterator[NDArray[np.uint8]]:
        return (self._counted(*self._pixels(image)) for image in self._sources())

    def _decoded_by_many(self) -> Iterator[NDArray[np.uint8]]:
        with ThreadPoolExecutor(self._threads, thread_name_prefix="pixel-decoder") as pool:
            begun: deque[_Decoding] = deque()
            try:
                for decoding in self._begun_by(pool):
                    begun.append(decoding)
                    if len(begun) == _BEGUN * self._threads:
                        yield self._counted(*begun.popleft().result())
                while begun and not self._closing.is_set():
                    yield self._counted(*begun.popleft().result())
            finally:
                pool.shutdown(cancel_futures=True)

    def _begun_by(self, pool: ThreadPoolExecutor) -> Iterator[_Decoding]:
        """Begin with the images one by one; what iterating raises takes its turn after the images before it."""
        try:
            for image in self._sources():
                yield pool.submit(self._pixels, image)
        except Exception as error:  # noqa: BLE001 - raised by whoever waits for the result
            failed: _Decoding = Future()
            failed.set_exception(error)
            yield failed

    def _sources(self) -> Iterator[ImageSource]:
        """Iterate the images while somebody wants them; what iterating takes is decoding where it is lazy."""
        remaining = iter(self._images)
        while not self._closing.is_set():
            start = time.perf_counter()
            try:
                image = next(remaining)
            except StopIteration:
                return
            self.decode_seconds += time.perf_counter() - start
            yield image

    def _pixels(self, source: ImageSource) -> tuple[NDArray[np.uint8], float, float]:
        """Return an image's pixels, and how long decoding and preprocessing it took."""
        start = time.perf_counter()
        image = decode_image(source) if isinstance(source, bytes) else source
        image.load()
        decoded = time.perf_counter()
        pixels_HWC = self._preprocess.pixels(image)
        return pixels_HWC, decoded - start, time.perf_counter() - decoded

    def _counted(self, pixels_HWC: NDArray[np.uint8], decoding: float, preprocessing: float) -> NDArray[np.uint8]:
        self.decode_seconds += decoding
        self.preprocess_seconds += preprocessing
        return pixels_HWC
