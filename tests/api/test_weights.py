"""POST /v1/weights: a safetensors file in, in constant memory, or nothing at all."""

import hashlib
import pickle
import socket
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from tests.api.problem import assert_problem
from tests.fixtures.service import MAX_UPLOAD_BYTES, RunningService


@pytest.fixture
def file() -> bytes:
    """Return a file of two tensors that nobody has uploaded yet."""
    return save({"a": np.ones((3, 4), np.float32), "b": np.zeros(2, np.int64)}, metadata={"of": uuid.uuid4().hex})


def stored(service: RunningService) -> set[str]:
    return set(service.objects.keys("weights"))


def test_a_file_is_stored_under_its_digest(service: RunningService, admin: httpx.Client, file: bytes) -> None:
    sha256 = hashlib.sha256(file).hexdigest()
    before = stored(service)
    answer = admin.post("/v1/weights", content=file)
    assert answer.status_code == 201
    body = answer.json()
    assert {name: body[name] for name in ("object", "sha256", "bytes", "tensors")} == {
        "object": "weights",
        "sha256": sha256,
        "bytes": len(file),
        "tensors": 2,
    }
    assert stored(service) - before == {f"weights/{sha256}.safetensors"}
    with service.objects.open(f"weights/{sha256}.safetensors") as kept:
        assert kept.read() == file
    again = admin.post("/v1/weights", content=file)
    assert (again.status_code, again.json()) == (200, body)
    form = admin.post("/v1/weights", files={"file": ("x.safetensors", file)})
    assert (form.status_code, form.json()) == (200, body)
    assert stored(service) - before == {f"weights/{sha256}.safetensors"}


@pytest.mark.parametrize("header_bytes", [0x280, 0x380, 0x480, 0x580])
def test_a_file_whose_length_of_header_begins_like_a_pickle(admin: httpx.Client, header_bytes: int) -> None:
    def with_note(length: int) -> bytes:
        return save({"a": np.ones(1, np.float32)}, metadata={"note": "x" * length})

    short = int.from_bytes(with_note(0)[:8], "little")
    file = with_note(header_bytes - short)
    assert file[:8] == header_bytes.to_bytes(8, "little")
    assert admin.post("/v1/weights", content=file).status_code in {200, 201}


def test_a_file_in_chunks_of_unknown_number(admin: httpx.Client, file: bytes) -> None:
    def pieces() -> Iterator[bytes]:
        for start in range(0, len(file), 5):
            yield file[start : start + 5]

    assert admin.post("/v1/weights", content=pieces()).json()["sha256"] == hashlib.sha256(file).hexdigest()


@pytest.mark.parametrize(
    ("spoil", "status", "code"),
    [
        (lambda file: file[:-1], 422, "unsafe_weights"),
        (lambda file: file[:7], 422, "unsafe_weights"),
        (lambda file: file + b"x", 422, "unsafe_weights"),
        (lambda file: pickle.dumps({"a": file}), 422, "unsafe_weights"),
        (lambda file: b"PK\x03\x04" + file, 422, "unsafe_weights"),
        (lambda _: b"", 422, "empty_upload"),
        (lambda file: file + b"x" * MAX_UPLOAD_BYTES, 413, "upload_too_large"),
    ],
    ids=range(7),
)
def test_what_is_refused_leaves_nothing(
    service: RunningService, admin: httpx.Client, file: bytes, spoil: object, status: int, code: str
) -> None:
    assert callable(spoil)
    before = stored(service)
    assert_problem(admin.post("/v1/weights", content=spoil(file)), status, code, param="file")
    assert_problem(admin.post("/v1/weights", content=iter([spoil(file)])), status, code, param="file")
    assert stored(service) == before
    drafts = service.settings.home / "objects" / "drafts"
    assert not drafts.exists() or not list(drafts.iterdir())


def test_a_connection_that_breaks_off(service: RunningService, admin: httpx.Client, file: bytes) -> None:
    before = stored(service)
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        head = f"POST /v1/weights HTTP/1.1\r\nHost: x\r\nContent-Length: {len(file)}\r\n"
        head += f"Authorization: {admin.headers['Authorization']}\r\n\r\n"
        connection.sendall(head.encode() + file[:-3])
    admin.get("/v1/models")
    assert stored(service) == before


def test_it_takes_an_admin(user: httpx.Client, file: bytes) -> None:
    assert_problem(user.post("/v1/weights", content=file), 403, "missing_scope")
