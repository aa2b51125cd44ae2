"""What the models of a fine-tune are trained on: images, labels, the split; and the pixels that models share.

N images of the data set
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.ingest.shard import iter_images
from workers.finetune.pixels import PixelStore
from workers.finetune.split import Split
from workers.runtime import Runtime
from workers.zoo.preprocessing import Preprocessor


@dataclass(frozen=True, eq=False)
class Data:
    """What is trained on: the canonical file, its labels (N) and class names, and who trains, chooses and tests."""

    name: str
    shard: Path
    labels_N: NDArray[np.int64]
    class_names: list[str]
    split: Split

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each part of the split."""
        parts = self.split
        return {"train": len(parts.train_T), "validation": len(parts.validation_V), "test": len(parts.test_S)}


class SharedPixels:
    """The pixels of the data set as the last network takes them; the next one shares them if it takes the same.

    One size at a time is held.

    Attributes:
        seconds: it took to decode those that are held.
    """

    def __init__(self, runtime: Runtime, data: Data, should_stop: Callable[[], bool]) -> None:
        """Decode nothing yet; ``should_stop`` is asked between images."""
        self._runtime, self._data, self._should_stop = runtime, data, should_stop
        self._held: tuple[object, PixelStore] | None = None
        self.seconds = 0.0

    def of(self, preprocess: Preprocessor) -> PixelStore:
        """Return the pixels of all images.

        Raises:
            Interrupted: ``should_stop`` said so.
            EvaluationFailed: ``no_room_on_disk``.
        """
        steps, data = preprocess.steps, self._data
        geometry = steps.resize, steps.crop, steps.interpolation
        if self._held is not None and self._held[0] == geometry:
            return self._held[1]
        self._held = None
        started = time.monotonic()
        store = PixelStore(
            preprocess,
            partial(iter_images, data.shard),
            np.arange(len(data.labels_N)),
            pin=self._runtime.device.type == "cuda",
            should_stop=self._should_stop,
            workspace=self._runtime.workspace,
        )
        self._held = geometry, store
        self.seconds = time.monotonic() - started
        return store
