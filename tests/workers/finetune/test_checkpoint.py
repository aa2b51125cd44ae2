"""The checkpoint file: whole or not at all, of one work only."""

import threading
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from workers.finetune.checkpoint import Checkpoint
from workers.finetune.training import TrainingState


def state(step: int) -> TrainingState:
    return TrainingState({"network.weight": torch.full((100_000,), float(step))}, {"step": step, "loss": 0.1 + 0.2})


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "state.safetensors", "work")
    assert checkpoint.load() is None
    checkpoint.save(state(1))
    checkpoint.save(state(2))
    found = checkpoint.load()
    assert found is not None
    assert found.progress == {"step": 2, "loss": 0.1 + 0.2}
    assert torch.equal(found.tensors["network.weight"], state(2).tensors["network.weight"])
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    checkpoint.remove()
    checkpoint.remove()
    assert checkpoint.load() is None


def test_another_works_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    Checkpoint(path, "work").save(state(1))
    assert Checkpoint(path, "other work").load() is None


def test_a_failed_save_keeps_the_old_state(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "state.safetensors", "work")
    checkpoint.save(state(1))
    with pytest.raises((TypeError, ValueError)):
        checkpoint.save(TrainingState({"a": torch.ones(2), "b": "no tensor"}, {"step": 2}))  # type: ignore[dict-item]
    found = checkpoint.load()
    assert found is not None
    assert found.progress["step"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_reader_never_meets_half_a_file(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "state.safetensors", "work")
    checkpoint.save(state(0))
    ended = threading.Event()

    def write() -> None:
        for step in range(1, 40):
            checkpoint.save(state(step))
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not ended.is_set():
        found = checkpoint.load()
        assert found is not None
        assert torch.equal(found.tensors["network.weight"], state(found.progress["step"]).tensors["network.weight"])
        seen.add(found.progress["step"])
    writer.join()
    assert len(seen) > 1


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    checkpoint = Checkpoint(path, "work")
    checkpoint.save(state(1))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SafetensorError):
        checkpoint.load()
