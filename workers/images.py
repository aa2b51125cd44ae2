"""Which images of a data set a model is evaluated on, and reading them until the work is to end.

Legend: N images of the data set, E evaluated images.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from app.domain.interruption import Interrupted
from app.domain.sampling import stratified_sample
from app.domain.subsets import evaluated_split
from app.ingest.shard import read_labels, read_paths


@dataclass(frozen=True)
class EvaluatedImages:
    """Rows of a canonical data set, ascending, and their labels."""

    rows_E: NDArray[np.intp]
    labels_E: NDArray[np.int64]
    in_dataset: int
    split: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return what users are told: how many images of how many, and of which split."""
        return {"evaluated": len(self.rows_E), "in_dataset": self.in_dataset, "split": self.split}


def choose_images(shard: Path, max_images: int) -> EvaluatedImages:
    """Choose the images of the split that is looked at; of too many, a class-balanced sample (nested)."""
    labels_N, _, splits = read_labels(shard)
    split = evaluated_split(set(splits))
    rows_E = np.flatnonzero([split in (None, name) for name in splits])
    if len(rows_E) > max_images:
        paths = read_paths(shard)
        keys = [hashlib.sha256(paths[row].encode()).hexdigest() for row in rows_E]
        rows_E = rows_E[stratified_sample(labels_N[rows_E], keys, max_images)]
    return EvaluatedImages(rows_E, labels_N[rows_E], len(labels_N), split)


def stopping(images: Iterable[Image], should_stop: Callable[[], bool]) -> Iterator[Image]:
    """Yield the images while the work may go on.

    Raises:
        Interrupted: ``should_stop``, asked before each image is read, said so.
    """
    remaining = iter(images)
    while True:
        if should_stop():
            raise Interrupted("Stopped while reading images.")
        try:
            image = next(remaining)
        except StopIteration:
            return
        yield image
