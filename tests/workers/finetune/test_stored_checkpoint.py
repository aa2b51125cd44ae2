"""A checkpoint in the object store: any worker goes on from it, and no worker's disk keeps a copy."""

from pathlib import Path

import pytest
import torch

from app.storage.objects import Objects
from workers.finetune.stored_checkpoint import StoredCheckpoint
from workers.finetune.training import TrainingState

NAME = "finetunes/a/ft_b/mdl_c.checkpoint"


def state(step: int) -> TrainingState:
    return TrainingState({"network.weight": torch.full((100_000,), float(step))}, {"step": step})


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects((tmp_path / "objects").as_uri())


def of_worker(objects: Objects, folder: Path) -> StoredCheckpoint:
    folder.mkdir(exist_ok=True)
    return StoredCheckpoint(objects, NAME, folder, "work")


def test_another_worker_goes_on_from_it(objects: Objects, tmp_path: Path) -> None:
    one, other = (of_worker(objects, tmp_path / name) for name in ("one", "other"))
    assert one.load() is None
    one.save(state(1))
    earlier = other.load()
    one.save(state(2))
    later = other.load()
    assert earlier is not None
    assert later is not None
    for found, step in ((earlier, 1), (later, 2)):
        assert found.progress == {"step": step}
        assert torch.equal(found.tensors["network.weight"], state(step).tensors["network.weight"])
    other.remove()
    other.remove()
    assert one.load() is None
    assert objects.keys() == []


def test_no_copy_stays_on_the_workers_disk(objects: Objects, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    checkpoint = of_worker(objects, folder)
    checkpoint.save(state(1))
    assert not list(folder.iterdir())
    assert checkpoint.load() is not None
    assert not list(folder.iterdir())


def test_nor_where_the_store_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("no folder")
    folder = tmp_path / "work"
    checkpoint = of_worker(Objects((tmp_path / "objects").as_uri()), folder)
    with pytest.raises(OSError, match="objects"):
        checkpoint.save(state(1))
    assert not list(folder.iterdir())
