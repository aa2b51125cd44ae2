"""A file of a web server: asked for again while that may help, and its failures told in own words."""

import hashlib
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import save

from app.domain.errors import ModelRejected
from app.domain.model_sources import SafetensorsSource
from app.domain.states import RETRY_BUDGET
from tests.fixtures.hub import FLIP, HANG, TRUNCATE, Hub
from tests.fixtures.servers import free_port
from workers.zoo import asking_again, http_download
from workers.zoo.asking_again import seconds_asked_for
from workers.zoo.sources import cached_weights

WEIGHTS = save({"a": torch.arange(4000.0)})
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def source(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> SafetensorsSource:
    """Return a source that the stand-in for the Hub serves as a plain web server."""
    hub.push("acme/tiny", {"x.safetensors": WEIGHTS})
    monkeypatch.setattr(http_download, "TIMEOUT", httpx.Timeout(0.3))
    return SafetensorsSource(uri=f"{hub.url}/acme/tiny/resolve/main/x.safetensors", sha256=SHA256)


def rejection(source: SafetensorsSource, cache: Path) -> ModelRejected:
    with pytest.raises(ModelRejected) as caught:
        cached_weights(source, cache)
    assert caught.value.param == "source"
    assert source.uri in caught.value.message
    assert "words of the server" not in caught.value.message
    assert "For more information" not in caught.value.message
    assert not list(cache.glob("*"))
    return caught.value


@pytest.mark.parametrize("kind", [429, 500, 503, HANG, TRUNCATE])
def test_what_fails_once_is_fetched(source: SafetensorsSource, hub: Hub, tmp_path: Path, kind: int | str) -> None:
    hub.fail(kind, times=1)
    assert cached_weights(source, tmp_path / "cache").stem == SHA256
    assert len(hub.requests) == 2


@pytest.mark.parametrize(
    ("kind", "why"), [(429, "status 429"), (502, "status 502"), (HANG, "in time"), (TRUNCATE, "broke off")]
)
def test_what_goes_on_failing_is_given_up_and_left_to_the_next_attempt(
    source: SafetensorsSource, hub: Hub, tmp_path: Path, kind: int | str, why: str
) -> None:
    hub.fail(kind)
    start = time.monotonic()
    failed = rejection(source, tmp_path / "cache")
    assert failed.code == "source_unavailable"
    assert RETRY_BUDGET[failed.code] > 0
    assert why in failed.message
    assert "try again later" in str(failed.hint)
    assert 1 < len(hub.requests) < 10
    assert time.monotonic() - start < 5


def test_a_server_that_is_not_there_is_told_so(source: SafetensorsSource, tmp_path: Path) -> None:
    away = SafetensorsSource(uri=f"http://127.0.0.1:{free_port()}/x.safetensors", sha256=SHA256)
    failed = rejection(away, tmp_path / "cache")
    assert (failed.code, "no connection" in failed.message) == ("source_unavailable", True)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "weights_unauthorized"),
        (403, "weights_unauthorized"),
        (404, "weights_unavailable"),
        (410, "weights_unavailable"),
    ],
)
def test_what_will_not_change_is_told_at_once(
    source: SafetensorsSource, hub: Hub, tmp_path: Path, status: int, code: str
) -> None:
    hub.fail(status)
    failed = rejection(source, tmp_path / "cache")
    assert failed.code == code
    assert f"status {status}" in failed.message
    assert len(hub.requests) == 1


def test_a_wrong_file_is_not_fetched_again(source: SafetensorsSource, hub: Hub, tmp_path: Path) -> None:
    hub.fail(FLIP)
    with pytest.raises(ModelRejected) as caught:
        cached_weights(source, tmp_path / "cache")
    assert caught.value.code == "weights_hash_mismatch"
    assert len(hub.requests) == 1


def test_a_server_that_says_when_to_come_again_is_asked_then(
    source: SafetensorsSource, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking_again, "PATIENCE_SECONDS", 1.6)
    hub.fail(503, times=1, retry_after="1")
    start = time.monotonic()
    assert cached_weights(source, tmp_path / "cache").stem == SHA256
    assert time.monotonic() - start > 1
    hub.requests.clear()
    hub.fail(429, retry_after="3600")
    assert rejection(source, tmp_path / "other").code == "source_unavailable"
    assert len(hub.requests) == 1


def test_retry_after_is_a_number_or_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True)
    assert 45 < seconds_asked_for(soon) < 51
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    assert [seconds_asked_for(text) for text in ("7", " 0 ", past, None, "", "soon", "-3", "1e9", "nan")] == [
        7,
        *[0] * 8,
    ]
