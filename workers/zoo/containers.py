"""Weights files of foreign formats, rewritten as safetensors without running any code they may hold.

The tensors keep the names they have in the file; ``workers.zoo.layouts`` gives them an architecture's names.
"""

import json
import pickle
import struct
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import h5py
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from app.domain.errors import ModelRejected
from app.domain.safetensors_header import NotSafetensors, SafetensorsHeader
from workers.extract.memory import is_out_of_memory

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
TORCH_MAGICS = (b"PK\x03\x04", b"\x80")
PICKLE_MAGICS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

_BLOCK = 1 << 16
_SAVE = "Save the tensors alone: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')."
_RESAVE = (
    "Re-save it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors'). "
    "A state dict as it is may come from a Hub repository (type timm or transformers) or a wheel (type package)."
)
_RESAVE_KERAS = "Save its tensors by safetensors.torch.save_file, under the architecture's own names."
_FETCH_AGAIN = "Copy or upload the whole file again, and state the SHA-256 of the whole one."

Tensors = dict[str, torch.Tensor]


def rewrite(original: Path, target: Path, *, only_safetensors: bool) -> None:
    """Write the tensors of a PyTorch, Keras HDF5 or safetensors file to ``target`` as safetensors.

    Args:
        original: the file as its source serves it; its kind is told by its first bytes, not by its name.
        target: where the safetensors file is written.
        only_safetensors: refuse every other format.

    Raises:
        ModelRejected: ``unsafe_weights`` for anything but plain tensors.
    """
    with original.open("rb") as file:
        head = file.read(16)
    # Its length comes first in a safetensors file, and may begin with the byte of a pickle.
    is_safetensors = only_safetensors or head[8:9] == b"{"
    if not is_safetensors and head.startswith(HDF5_MAGIC):
        tensors = _read_hdf5(original)
    elif not is_safetensors and head.startswith(TORCH_MAGICS):
        tensors = _read_torch(original)
    else:
        tensors = _read_safetensors(original, head)
    # safetensors sorts by name; layouts that go by order need the order of the file.
    save_file(tensors, target, metadata={"order": json.dumps(list(tensors))})


def _read_safetensors(original: Path, head: bytes) -> Tensors:
    """Read a file that is to be one of safetensors, and say what it is where it is another."""
    if head[8:9] != b"{":
        if head.startswith(PICKLE_MAGICS):
            raise _unsafe("it is a PyTorch pickle, not a safetensors file", _RESAVE)
        if head.startswith(HDF5_MAGIC):
            raise _unsafe("it is an HDF5 file, not a safetensors file", _RESAVE_KERAS)
    header = SafetensorsHeader()
    try:
        with original.open("rb") as file:
            while not header.is_complete and (block := file.read(_BLOCK)):
                header.feed(block)
        header.check(original.stat().st_size)
    except NotSafetensors as error:
        hint = _FETCH_AGAIN if "truncated" in error.why else _SAVE
        raise _unsafe(f"it is no whole safetensors file: {error.why}", hint) from error
    return read(original)


def read(path: Path) -> Tensors:
    """Return the tensors of a safetensors file, in the order they had in the original.

    Raises:
        ModelRejected: ``unsafe_weights`` where it is not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in _ordered(file.keys(), file.metadata() or {})}
    except (SafetensorError, ValueError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        raise _unsafe("it is not a safetensors file") from error


def _ordered(names: Sequence[str], metadata: Mapping[str, str]) -> Sequence[str]:
    """Return the names in the order that ``rewrite`` noted; in a file of others, the note may be anything."""
    try:
        order = json.loads(metadata.get("order", "null"))
    except ValueError:
        return names
    is_complete = isinstance(order, list) and Counter(map(str, order)) == Counter(names)
    return [str(name) for name in order] if is_complete else names


def _read_torch(path: Path) -> Tensors:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what cannot be read is refused below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, struct.error, RuntimeError, EOFError, ValueError, LookupError) as error:
        if is_out_of_memory(error):
            raise
        raise _unsafe("reading it would need code to run, or it is damaged") from error
    if not isinstance(state, dict) or not state:
        raise _unsafe("it is not a mapping of names to tensors")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise _unsafe(f"its entry {name!r} is not a tensor")
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def _read_hdf5(path: Path) -> Tensors:
    """Read every dataset under its path, less the optimizer's state that Keras keeps in a whole-model file."""
    try:
        with h5py.File(path, "r") as file:
            return {
                name: torch.from_numpy(dataset[()])
                for name, dataset in _datasets(file)
                if not name.startswith("optimizer_weights/")
            }
    except (OSError, TypeError, KeyError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise _unsafe("its datasets are not plain arrays") from error


def _datasets(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    for name in group:
        # An external or soft link could point to another file of this machine: only what is inside counts.
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise _unsafe(f"{prefix}{name} is a link")
        item = group[name]
        if isinstance(item, h5py.Dataset):
            if item.external:
                raise _unsafe(f"{prefix}{name} is stored in another file")
            if item.ndim:
                yield f"{prefix}{name}", item
        else:
            yield from _datasets(item, f"{prefix}{name}/")


def _unsafe(reason: str, hint: str = _SAVE) -> ModelRejected:
    return ModelRejected("unsafe_weights", f"the weights file was refused: {reason}", param="source", hint=hint)
