"""Sources that drip, hang, or are not wanted any more: no worker waits for them, and nothing of them is left."""

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from app.config import Settings
from app.domain.errors import ModelRejected
from app.domain.interruption import Interrupted
from app.domain.model_sources import (
    PackageSource,
    SafetensorsSource,
    Source,
    TimmSource,
    TransformersSource,
    UploadSource,
)
from app.storage.leases import LeaseLost
from app.storage.objects import Objects, uploaded_weights
from tests.fixtures.hub import DRIP, HANG, Hub, drip
from tests.fixtures.subjects import make_subject
from tests.fixtures.weights import small_spec
from workers.zoo.admission import admit
from workers.zoo.sources import cached_weights
from workers.zoo.transfer import Limits, Supervision, Transfer

NO_HASH = "0" * 64
IMPATIENT = Limits(seconds=60, bytes_per_second=100_000, patience_seconds=0.6)
BRIEF = Limits(seconds=0.6, bytes_per_second=0, patience_seconds=60)
ENDLESS = Limits(seconds=60, bytes_per_second=0, patience_seconds=60)


@pytest.fixture
def dripping() -> Iterator[str]:
    """Yield the address of a server that drips whatever it is asked for."""
    closing = threading.Event()

    class Dripping(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            return

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            drip(b" " * 10_000, self.wfile, closing)

    with ThreadingHTTPServer(("127.0.0.1", 0), Dripping) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """Yield a file whose opening and reading never return."""
    path = tmp_path / "objects" / uploaded_weights(NO_HASH)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    yield path
    os.close(os.open(path, os.O_RDWR))  # whoever waits for its beginning now finds its end


def _is_read() -> bool:
    return any(thread.name == "fetch" for thread in threading.enumerate())


@pytest.fixture
def sources(hub: Hub, dripping: str, pipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Source]:
    """Return sources that never end, each in its own way."""
    hub.push("acme/tiny", {"model.safetensors": save({"a": torch.zeros(4000)}), "config.json": b"{}"})
    hub.fail(DRIP, within="/resolve/")
    monkeypatch.setenv("PIP_INDEX_URL", dripping)
    wheel = {"wheel_sha256": NO_HASH, "member_sha256": NO_HASH, "member": "x"}
    return {
        "http": SafetensorsSource(uri=f"{dripping}/x.safetensors", sha256=NO_HASH),
        "fsspec": SafetensorsSource(uri=pipe.as_uri(), sha256=NO_HASH),
        "hub": TransformersSource(id="acme/tiny"),
        "timm": TimmSource(id="hf-hub:acme/tiny"),
        "wheel": PackageSource(package="endless", version="1.0", **wheel),
        "upload": UploadSource(sha256=NO_HASH),
    }


KINDS = ("http", "fsspec", "hub", "timm", "wheel", "upload")
LEFT_BEHIND = {"fsspec", "upload"}
"""Those in which a read never returns: all others are ended."""


def ended(kind: str) -> bool:
    """Tell whether nobody fetches any more, soon."""
    deadline = time.monotonic() + 3
    while _is_read() and kind not in LEFT_BEHIND and time.monotonic() < deadline:
        time.sleep(0.02)
    return kind in LEFT_BEHIND or not _is_read()


def fetched(source: Source, folder: Path, supervision: Supervision) -> Path:
    return cached_weights(source, folder / "cache", Objects((folder / "objects").as_uri()), supervision)


@pytest.mark.parametrize(
    ("kind", "limits"), [*((kind, IMPATIENT) for kind in KINDS), ("http", BRIEF), ("fsspec", BRIEF)]
)
def test_a_source_that_drips_or_hangs_is_given_up(
    sources: dict[str, Source], tmp_path: Path, kind: str, limits: Limits
) -> None:
    started = time.monotonic()
    with pytest.raises(ModelRejected) as caught:
        fetched(sources[kind], tmp_path, Supervision(limits))
    assert (caught.value.code, caught.value.param) == ("source_too_slow", "source")
    assert caught.value.hint
    assert time.monotonic() - started < 8
    assert not list((tmp_path / "cache").iterdir())
    assert ended(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_is_to_stop_does_not_wait_for_a_source(
    sources: dict[str, Source], tmp_path: Path, kind: str
) -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        fetched(sources[kind], tmp_path, Supervision(ENDLESS, stop.is_set))
    assert time.monotonic() - started < 8
    assert not list((tmp_path / "cache").iterdir())
    assert ended(kind)


def lost() -> bool:
    raise LeaseLost("model mdl_1")


@pytest.mark.parametrize("within", ["/api/models/", "/resolve/"])
@pytest.mark.parametrize("how", [DRIP, HANG])
def test_admission_ends_when_its_lease_is_lost_and_refuses_nothing(
    hub: Hub, tmp_path: Path, within: str, how: str
) -> None:
    hub.push("acme/tiny", {"model.safetensors": save({"a": torch.zeros(4000)}), "config.json": b"{}"})
    hub.fail(how, within=within)
    spec = dataclasses.replace(
        small_spec(tmp_path), source=TransformersSource(id="acme/tiny"), architecture="transformers:vit"
    )
    with pytest.raises(LeaseLost):
        admit(spec, tmp_path / "cache", supervision=Supervision(ENDLESS, lost))


def test_a_configuration_that_drips_is_given_up(hub: Hub, tmp_path: Path) -> None:
    hub.push("acme/tiny", {"model.safetensors": save({"a": torch.zeros(4000)}), "config.json": b"{}" + b" " * 4000})
    hub.fail(DRIP, within="config.json")
    spec = dataclasses.replace(
        small_spec(tmp_path), source=TransformersSource(id="acme/tiny"), architecture="transformers:vit"
    )
    with pytest.raises(ModelRejected) as caught:
        admit(spec, tmp_path / "cache", supervision=Supervision(IMPATIENT))
    assert caught.value.code == "source_too_slow"


def test_an_evaluation_that_is_to_stop_does_not_wait_for_its_weights(tmp_path: Path) -> None:
    with make_subject(tmp_path) as subject:
        file = tmp_path / "test_resnet.safetensors"
        file.unlink()
        os.mkfifo(file)
        subject.runtime.stopping.set()
        with pytest.raises(Interrupted):
            _ = subject.network
        os.close(os.open(file, os.O_RDWR))


def test_a_slow_but_steady_source_is_waited_for(tmp_path: Path) -> None:
    def fetch(transfer: Transfer) -> Path:
        path = transfer.directory / "x"

        def blocks() -> Iterator[bytes]:
            for _ in range(8):
                time.sleep(0.15)
                yield b"x" * 20_000

        transfer.write(blocks(), path, None)
        return path

    found = Supervision(dataclasses.replace(IMPATIENT, patience_seconds=0.1)).run(fetch, tmp_path)
    assert found.stat().st_size == 160_000


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("read"), SystemExit(2)])
def test_what_a_fetch_raises_comes_to_who_waits(tmp_path: Path, error: BaseException) -> None:
    def fetch(_: Transfer) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        Supervision().run(fetch, tmp_path)
    assert caught.value is error


def test_what_begins_after_it_was_given_up_is_ended_at_once(tmp_path: Path) -> None:
    transfer, ended = Transfer(tmp_path), threading.Event()
    with transfer.ended_by(ended.set):
        assert not ended.is_set()
    transfer.give_up()
    assert not ended.is_set(), "it was over before"
    with transfer.ended_by(ended.set):
        assert ended.is_set()


def test_the_limits_are_settings(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, fetch_seconds=7, fetch_bytes_per_second=8, fetch_patience_seconds=9)
    assert Supervision.of(settings).limits == Limits(seconds=7, bytes_per_second=8, patience_seconds=9)
    assert Supervision.of(Settings(home=tmp_path)).limits == Limits()
