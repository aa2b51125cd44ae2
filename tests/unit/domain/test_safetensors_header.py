"""A safetensors file is told from everything else by its first bytes and its length."""

import json
import pickle
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from app.domain.errors import BadRequest
from app.domain.safetensors_header import SafetensorsHeader

TENSORS = {"a": np.ones((2, 3), np.float32), "b": np.zeros((0,), np.int64), "c": np.ones((), np.float16)}
FILE = save(TENSORS, metadata={"format": "pt"})


def look(data: bytes, pieces: int = 1 << 20) -> int:
    header = SafetensorsHeader()
    for start in range(0, len(data), pieces):
        header.feed(data[start : start + pieces])
    return header.check(len(data))


def file_of(header: Any, tensors: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def tensor(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("pieces", [1, 3, 8, 9, 1000])
def test_what_the_library_writes_is_one(pieces: int) -> None:
    assert look(FILE, pieces) == 3


def test_what_is_behind_the_header_is_not_kept() -> None:
    header = SafetensorsHeader()
    big = save({"x": np.zeros(1 << 20, np.float32)})
    header.feed(big)
    assert len(header._bytes) < 1000
    assert header.check(len(big)) == 1


@given(st.integers(0, len(FILE) - 1))
def test_a_truncated_file_is_refused(length: int) -> None:
    with pytest.raises(BadRequest) as refused:
        look(FILE[:length])
    assert refused.value.code == "unsafe_weights"


@pytest.mark.parametrize(
    "data",
    [
        FILE + b"x",
        pickle.dumps({"a": 1}),
        pickle.dumps({"a": 1}, protocol=2) + b"x" * 100,
        b"PK\x03\x04" + b"\x00" * 100,
        b"\xff" * 100,
        struct.pack("<Q", 1) + b"{",
        file_of({}),
        file_of({"__metadata__": {}}),
        file_of([]),
        file_of(b"{nonsense}"),
        file_of(b"[" * 100_000),
        file_of(b"\xff\xfe"),
        file_of({"a": 1}, b"1234"),
        file_of({"a": tensor(dtype="OBJECT")}, b"1234"),
        file_of({"a": tensor(offsets=(0, 5))}, b"12345"),
        file_of({"a": tensor(offsets=(4, 0))}, b"1234"),
        file_of({"a": tensor(offsets=(4, 8))}, b"12345678"),
        file_of({"a": tensor(), "b": tensor()}, b"1234"),
        file_of({"a": tensor(), "b": tensor(offsets=(8, 12))}, b"x" * 12),
        file_of({"a": tensor(shape=(-1,), offsets=(0, -4))}),
        file_of({"a": tensor(shape=(1.0,))}, b"1234"),
        file_of({"a": tensor(shape=(True,))}, b"1234"),
        file_of({"a": tensor(shape=[1] * 65)}, b"1234"),
        file_of({"a": tensor(shape=[2**63], offsets=(0, 2**65))}),
        file_of({"a": tensor(offsets=(0, 4, 8))}, b"1234"),
    ],
    ids=range(25),
)
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        look(data)
    assert refused.value.code == "unsafe_weights"
    assert refused.value.hint


def test_a_pickle_is_refused_before_all_of_it_came() -> None:
    header = SafetensorsHeader()
    header.feed(b"\x80\x04\x95\x00\x00\x00\x00\x00")  # so may the length of a header of ten megabytes begin
    with pytest.raises(BadRequest, match="pickle"):
        header.feed(b"\x00\x00\x00")
