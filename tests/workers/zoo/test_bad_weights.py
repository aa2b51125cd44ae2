"""Weights that are damaged, hostile, or do not fit on the disk: refused, and nothing is left behind."""

import hashlib
import os
import pickle
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from app.domain.errors import ModelRejected
from app.domain.model_sources import PackageSource, SafetensorsSource, Source, TimmSource, UploadSource
from app.storage.objects import Objects
from tests.fixtures.hub import Hub
from tests.fixtures.weights import file_source
from tests.fixtures.wheels import write_wheel
from workers.zoo.containers import read
from workers.zoo.sources import cached_weights

TENSORS = {"a": torch.arange(300_000.0), "b": torch.ones(3)}
WEIGHTS = save(TENSORS)
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


class Canary:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


def rejection(source: Source, cache: Path, objects: Objects | None = None) -> ModelRejected:
    with pytest.raises(ModelRejected) as caught:
        cached_weights(source, cache, objects)
    assert caught.value.hint
    assert not [path for path in cache.rglob("*") if path.is_file()]
    return caught.value


def store(objects: Objects, content: bytes, sha256: str) -> None:
    with objects.create(f"weights/{sha256}.safetensors") as file:
        file.write(content)


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects((tmp_path / "objects").as_uri())


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_on_the_hub_never_executes(hub: Hub, tmp_path: Path, name: str, protocol: int) -> None:
    canary, bomb = tmp_path / "canary", tmp_path / "bomb"
    torch.save({"a": torch.ones(1), "b": Canary(canary)}, bomb, pickle_protocol=protocol)
    for content in (bomb.read_bytes(), pickle.dumps(Canary(canary), protocol)):
        hub.push("acme/bomb", {name: content})
        source = TimmSource(id="hf-hub:acme/bomb")
        assert rejection(source, tmp_path / "cache").code == "unsafe_weights"
        assert not canary.exists()


def test_an_upload_is_read_from_the_object_store(objects: Objects, tmp_path: Path) -> None:
    source = UploadSource(sha256=SHA256)
    missing = rejection(source, tmp_path / "cache", objects)
    assert (missing.code, missing.param) == ("weights_unavailable", "source.sha256")
    assert rejection(source, tmp_path / "cache").code == "weights_unavailable"
    store(objects, WEIGHTS, SHA256)
    weights = cached_weights(source, tmp_path / "cache", objects)
    assert weights.stem == SHA256
    torch.testing.assert_close(read(weights), TENSORS)
    assert cached_weights(source, tmp_path / "cache") == weights


def test_an_upload_that_was_changed_in_the_store_is_noticed(objects: Objects, tmp_path: Path) -> None:
    store(objects, WEIGHTS[:-1] + b"x", SHA256)
    changed = rejection(UploadSource(sha256=SHA256), tmp_path / "cache", objects)
    assert (changed.code, changed.param) == ("weights_hash_mismatch", "source.sha256")


def test_an_upload_is_safetensors(objects: Objects, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    content = pickle.dumps(Canary(canary))
    sha256 = hashlib.sha256(content).hexdigest()
    store(objects, content, sha256)
    assert rejection(UploadSource(sha256=sha256), tmp_path / "cache", objects).code == "unsafe_weights"
    assert not canary.exists()


@pytest.mark.parametrize("place", ["length", "header", "offsets", "tensors"])
def test_a_flipped_bit_is_noticed_by_the_hash_and_never_misread(tmp_path: Path, place: str) -> None:
    path = tmp_path / "x.safetensors"
    header = 8 + int.from_bytes(WEIGHTS[:8], "little")
    at = {"length": 1, "header": 9, "offsets": WEIGHTS.index(b"1200000"), "tensors": header + 5}[place]
    path.write_bytes(WEIGHTS[:at] + bytes([WEIGHTS[at] ^ 1]) + WEIGHTS[at + 1 :])
    source = SafetensorsSource(uri=path.as_uri(), sha256=SHA256)
    assert rejection(source, tmp_path / "cache").code == "weights_hash_mismatch"
    if place != "tensors":  # flipped before it was hashed, a number is as good as another
        assert rejection(file_source(path), tmp_path / "cache").code == "unsafe_weights"


@pytest.mark.parametrize("kept", [0, 7, 20, 200, len(WEIGHTS) - 1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(WEIGHTS[:kept])
    assert rejection(file_source(path), tmp_path / "cache").code == "unsafe_weights"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to write longer files, as it does on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def sources(hub: Hub, objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Source]:
    """Return sources of the same weights, each of another kind."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(WEIGHTS)
    hub.push("acme/tiny", {"model.safetensors": WEIGHTS})
    store(objects, WEIGHTS, SHA256)
    wheel = write_wheel(tmp_path / "index", "tiny-weights", "1.2", {"x.safetensors": WEIGHTS})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return {
        "file": file_source(path),
        "http": SafetensorsSource(uri=f"{hub.url}/acme/tiny/resolve/main/model.safetensors", sha256=SHA256),
        "hub": TimmSource(id="hf-hub:acme/tiny"),
        "upload": UploadSource(sha256=SHA256),
        "wheel": PackageSource(
            package="tiny-weights",
            version="1.2",
            wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
            member="x.safetensors",
            member_sha256=SHA256,
        ),
    }


KINDS = ("file", "http", "hub", "upload", "wheel")


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_told_and_nothing_is_left(
    sources: dict[str, Source], objects: Objects, tmp_path: Path, kind: str
) -> None:
    with files_of_at_most(500_000):
        full = rejection(sources[kind], tmp_path / "cache", objects)
    assert full.code == "no_room_on_disk"
    assert str(tmp_path / "cache") in full.message
    assert cached_weights(sources[kind], tmp_path / "cache", objects).stem == SHA256


@pytest.mark.parametrize("kind", KINDS)
def test_what_will_not_fit_with_its_rewritten_copy_is_not_begun(
    sources: dict[str, Source], objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=int(1.5 * len(WEIGHTS))))
    full = rejection(sources[kind], tmp_path / "cache", objects)
    assert full.code == "no_room_on_disk"
    assert "0.00 GB are wanted" in full.message
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=int(2.5 * len(WEIGHTS))))
    assert cached_weights(sources[kind], tmp_path / "cache", objects).stem == SHA256


def test_a_file_that_says_it_is_larger_than_the_disk_is_not_begun(tmp_path: Path) -> None:
    with (tmp_path / "x.safetensors").open("wb") as file:
        file.truncate(1 << 43)  # it takes no room itself
    source = SafetensorsSource(uri=(tmp_path / "x.safetensors").as_uri(), sha256=SHA256)
    assert rejection(source, tmp_path / "cache").code == "no_room_on_disk"


def test_a_disk_that_is_full_when_the_file_is_rewritten(tmp_path: Path) -> None:
    half = {"a": torch.zeros(200_000, dtype=torch.float16), "b": torch.ones(1)}
    save_file(half, tmp_path / "x.safetensors")
    source = file_source(tmp_path / "x.safetensors")
    size = (tmp_path / "x.safetensors").stat().st_size
    with files_of_at_most(size):  # the copy also holds the order of the tensors
        assert rejection(source, tmp_path / "cache").code == "no_room_on_disk"
