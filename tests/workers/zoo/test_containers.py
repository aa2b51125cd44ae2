"""Foreign weights files: plain tensors come out, code never runs."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from app.domain.errors import ModelRejected
from tests.workers.zoo.test_out_of_memory import at_most_memory
from workers.extract.memory import is_out_of_memory
from workers.zoo.containers import read, rewrite

STATE = {"z": torch.arange(6.0).reshape(2, 3), "a": torch.ones(2, dtype=torch.float16), "n": torch.tensor(3)}


class Canary:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


def refuse(original: Path, *, only_safetensors: bool = False) -> str:
    return refusal(original, only_safetensors=only_safetensors).message


def refusal(original: Path, *, only_safetensors: bool = False) -> ModelRejected:
    target = original.with_suffix(".out")
    with pytest.raises(ModelRejected) as caught:
        rewrite(original, target, only_safetensors=only_safetensors)
    assert caught.value.code == "unsafe_weights"
    assert not target.exists()
    return caught.value


@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_keeps_names_order_values_and_types(tmp_path: Path, legacy: bool) -> None:
    torch.save(STATE, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    rewrite(tmp_path / "x.pth", tmp_path / "x.safetensors", only_safetensors=False)
    tensors = read(tmp_path / "x.safetensors")
    assert list(tensors) == ["z", "a", "n"]
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {n: t.dtype for n, t in STATE.items()}
    torch.testing.assert_close(tensors, STATE)


@pytest.mark.parametrize(
    "order",
    ['["a"]', "[]", '["a", "a", "n"]', '["a", "z", "n", "more"]', '{"a": 0, "z": 1, "n": 2}', "3", "descending", "[1]"],
)
def test_every_tensor_counts_whatever_a_foreign_file_says_of_their_order(tmp_path: Path, order: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file(STATE, path, metadata={"order": order})
    torch.testing.assert_close(dict(sorted(read(path).items())), dict(sorted(STATE.items())))
    rewrite(path, tmp_path / "y.safetensors", only_safetensors=True)
    assert set(read(tmp_path / "y.safetensors")) == set(STATE)


def test_tensors_that_share_memory_are_kept_apart(tmp_path: Path) -> None:
    shared = torch.arange(10.0)
    torch.save({"a": shared, "b": shared[2:5], "c": shared.reshape(2, 5).T}, tmp_path / "x.pth")
    rewrite(tmp_path / "x.pth", tmp_path / "x.safetensors", only_safetensors=False)
    tensors = read(tmp_path / "x.safetensors")
    torch.testing.assert_close(tensors["b"], shared[2:5])
    torch.testing.assert_close(tensors["c"], shared.reshape(2, 5).T)


@pytest.mark.parametrize("kind", ["torch", "legacy", "pickle"])
def test_a_pickle_never_executes(tmp_path: Path, kind: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "x.pth"
    payload = {"a": torch.ones(1), "b": Canary(canary)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=kind == "torch")
    refuse(path)
    assert not canary.exists()
    torch.load(path, weights_only=False) if kind != "pickle" else pickle.loads(path.read_bytes())
    assert canary.exists()


def test_a_state_dict_holds_tensors_only(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"state_dict": STATE}, path)
    assert "'state_dict' is not a tensor" in refuse(path)
    torch.save([torch.ones(1)], path)
    refuse(path)
    torch.save({}, path)
    refuse(path)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"PK\x03\x04damaged", b"\x80\x02damaged", b"\x89HDF\r\n\x1a\n..."])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    refuse(path)


def test_a_truncated_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(STATE, path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    path.write_bytes(whole[:-4])
    told = refusal(path, only_safetensors=True)
    here, wanted = len(whole) - header - 4, len(whole) - header
    assert f"it is truncated: it has {here} bytes of tensors, where its header says {wanted}" in told.message
    assert "the whole file again" in str(told.hint)
    path.write_bytes(whole[: header - 5])
    assert f"truncated: it has {header - 5} bytes, where its header ends at {header}" in refuse(path)
    path.write_bytes(whole + b"more")
    assert "too long" in refuse(path)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_truncated_torch_file_is_refused_wherever_it_ends(tmp_path: Path, legacy: bool) -> None:
    torch.save(STATE, tmp_path / "whole.pth", _use_new_zipfile_serialization=not legacy)
    content = (tmp_path / "whole.pth").read_bytes()
    path = tmp_path / "part.pth"
    for length in (4, 12, 40, 150, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:length])
        refuse(path)


def test_a_safetensors_source_accepts_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for is_zip in (True, False):
        torch.save(STATE, path, _use_new_zipfile_serialization=is_zip)
        told = refusal(path, only_safetensors=True)
        assert "it is a PyTorch pickle, not a safetensors file" in told.message
        assert "safetensors.torch.save_file(torch.load(FILE, weights_only=True)" in str(told.hint)
    with h5py.File(path, "w") as file:
        file["a"] = np.ones(2, np.float32)
    assert "it is an HDF5 file" in refuse(path, only_safetensors=True)


@pytest.mark.parametrize("read_file", ["torch", "safetensors"])
def test_memory_that_runs_out_is_no_fault_of_the_file(tmp_path: Path, read_file: str) -> None:
    path = tmp_path / "x"
    tensors = {"a": torch.zeros(16 << 20)}
    torch.save(tensors, path) if read_file == "torch" else save_file(tensors, path)
    with at_most_memory(32 << 20), pytest.raises(Exception) as caught:
        rewrite(path, tmp_path / "y", only_safetensors=False)
    assert not isinstance(caught.value, ModelRejected)
    assert is_out_of_memory(caught.value)


def test_a_safetensors_file_that_begins_like_a_pickle_is_one(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(4)}, path, metadata={"note": "x" * 42})
    assert path.read_bytes()[:2] == b"\x80\x00"  # the header has 128 bytes
    rewrite(path, tmp_path / "y.safetensors", only_safetensors=False)
    torch.testing.assert_close(read(tmp_path / "y.safetensors"), {"a": torch.ones(4)})


def test_keras_files_give_their_weights_and_no_optimizer_state(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    kernel = np.arange(12, dtype=np.float32).reshape(3, 4)
    with h5py.File(path, "w") as file:
        file["model_weights/dense/kernel"] = kernel
        file["optimizer_weights/adam/momentum"] = kernel
        file["optimizer_weights/adam/step"] = 3
    rewrite(path, tmp_path / "x.safetensors", only_safetensors=False)
    tensors = read(tmp_path / "x.safetensors")
    assert list(tensors) == ["model_weights/dense/kernel"]
    np.testing.assert_array_equal(tensors["model_weights/dense/kernel"].numpy(), kernel)


@pytest.mark.parametrize("kind", ["soft", "external", "stored elsewhere", "text"])
def test_keras_files_cannot_reach_out(tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret"
    with h5py.File(secret, "w") as file:
        file["data"] = np.ones(4, np.float32)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        if kind == "soft":
            file["a"] = np.ones(2, np.float32)
            file["link"] = h5py.SoftLink("/a")
        elif kind == "external":
            file["link"] = h5py.ExternalLink(str(secret), "/data")
        elif kind == "stored elsewhere":
            file.create_dataset("link", (4,), np.float32, external=[(str(secret), 0, 16)])
        else:
            file["link"] = ["text"]
    refuse(path)
