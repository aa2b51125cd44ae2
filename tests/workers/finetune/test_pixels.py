"""Pixels in memory or in a file: the same, decoded once, in any order."""

import resource
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from app.domain.errors import EvaluationFailed
from app.domain.interruption import Interrupted
from tests.workers.finetune.conftest import pictures
from workers.finetune.pixels import PixelStore
from workers.zoo.network import Network

IMAGES, _ = pictures(20)
ROWS_N = np.arange(1, 20, 2)


class Reader:
    """Gives images, and notes which."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, rows: np.ndarray) -> Iterator[Image.Image]:
        for row in rows:
            self.rows.append(int(row))
            yield IMAGES[row]


def store_of(network: Network, reader: Reader, **options: Any) -> PixelStore:
    return PixelStore(network.preprocess, reader, ROWS_N, **options)


@pytest.mark.parametrize("memory_limit", [2**30, 1000])
def test_images_are_decoded_once_for_any_number_of_epochs(network: Network, tmp_path: Path, memory_limit: int) -> None:
    reader = Reader()
    store = store_of(network, reader, memory_limit=memory_limit, workspace=tmp_path)
    assert len(store) == 10
    assert store.in_memory == (memory_limit > 1000)
    expected_NHWC = torch.from_numpy(np.stack([network.preprocess.pixels(IMAGES[row]) for row in ROWS_N]))
    for batches in ([np.arange(10)], [np.array([0, 3, 9]), np.array([1, 2, 8]), np.array([4])]):
        found = list(store.batches(batches))
        assert [len(batch) for batch in found] == [len(batch) for batch in batches]
        assert torch.equal(torch.cat(found), expected_NHWC[np.concatenate(batches)])
    assert reader.rows == ROWS_N.tolist()


def test_the_file_lies_in_the_workspace_and_goes_with_the_store(network: Network, tmp_path: Path) -> None:
    def mapped() -> bool:
        return str(tmp_path) in Path("/proc/self/maps").read_text()

    store = store_of(network, Reader(), memory_limit=1000, workspace=tmp_path)
    assert mapped()
    assert not list(tmp_path.iterdir()), "it would outlive a process that is killed"
    del store
    assert not mapped()


def test_no_room_on_the_disk_is_said_before_anything_is_decoded(network: Network, tmp_path: Path) -> None:
    reader, limits = Reader(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(EvaluationFailed, match=f"10 images.*{tmp_path}") as refused:
            store_of(network, reader, memory_limit=1000, workspace=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused.value.code == "no_room_on_disk"
    assert reader.rows == []
    assert not list(tmp_path.iterdir())


def test_decoding_stops_when_it_is_told_to(network: Network) -> None:
    reader, asked = Reader(), count()
    with pytest.raises(Interrupted):
        store_of(network, reader, should_stop=lambda: next(asked) == 4)
    assert reader.rows == ROWS_N[:4].tolist()
    assert not any(thread.name == "pixel-batches" for thread in threading.enumerate())
