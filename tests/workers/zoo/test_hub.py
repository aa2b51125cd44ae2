"""The Hub: by its own client, from a stand-in that serves real files and fails as a hub does."""

import errno
import hashlib
import json
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import save

from app.domain.errors import ModelRejected
from app.domain.model_sources import TimmSource, TransformersSource
from tests.fixtures.hub import FLIP, HANG, TRUNCATE, Hub
from workers.zoo import asking_again, disk_room
from workers.zoo import hub as hub_client
from workers.zoo.containers import read
from workers.zoo.hub import fetch_json, fetch_weights, find_repository
from workers.zoo.sources import cached_weights
from workers.zoo.transfer import Transfer

NAME = "acme/tiny"
TENSORS = {"a": torch.arange(4000.0), "b": torch.ones(3)}
WEIGHTS = save(TENSORS)
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
CARD = {"license": "mit", "datasets": ["imagenet-1k"]}


def source(**fields: str) -> TransformersSource:
    return TransformersSource(id=NAME, **fields)


def rejection(cache: Path, **fields: str) -> ModelRejected:
    """Return why the weights cannot be had; nothing may be left behind."""
    with pytest.raises(ModelRejected) as caught:
        cached_weights(source(**fields), cache)
    assert caught.value.hint
    assert not list(cache.glob("*"))
    return caught.value


def test_a_branch_is_a_commit_and_its_weights_are_fetched_once(hub: Hub, tmp_path: Path) -> None:
    commit = hub.push(NAME, {"model.safetensors": WEIGHTS, "config.json": b"{}"}, card=CARD)
    repository = find_repository(NAME, None)
    assert (repository.commit, repository.license, repository.datasets) == (commit, "mit", ("imagenet-1k",))
    assert repository.page == f"https://huggingface.co/{NAME}"  # not at the mirror that was asked
    cache = tmp_path / "cache"
    weights = cached_weights(source(revision=commit), cache)
    assert weights == cache / f"{SHA256}.safetensors"
    torch.testing.assert_close(read(weights), TENSORS)
    assert [path.name for path in cache.iterdir()] == [weights.name]  # nothing of the client's own cache is left
    hub.requests.clear()
    assert cached_weights(source(revision=commit, sha256=SHA256), cache) == weights
    assert hub.requests == []


def test_a_branch_that_moves_changes_nothing_for_those_at_the_commit(hub: Hub, tmp_path: Path) -> None:
    commit = hub.push(NAME, {"model.safetensors": WEIGHTS})
    hub.push(NAME, {"model.safetensors": save({"a": torch.zeros(4)})})
    assert cached_weights(source(revision=commit, sha256=SHA256), tmp_path / "old").stem == SHA256
    for stated in (source(revision="main", sha256=SHA256), TimmSource(id=f"hf-hub:{NAME}", sha256=SHA256)):
        with pytest.raises(ModelRejected) as caught:
            cached_weights(stated, tmp_path / "new")
        assert (caught.value.code, caught.value.param) == ("weights_hash_mismatch", "source.sha256")
        assert "another one than when the hash was stated" in str(caught.value.hint)
        assert not list((tmp_path / "new").glob("*"))


def test_a_bit_that_flips_on_the_way_is_noticed(hub: Hub, tmp_path: Path) -> None:
    hub.push(NAME, {"model.safetensors": WEIGHTS})
    hub.fail(FLIP, within="resolve")
    damaged = rejection(tmp_path / "cache")
    assert (damaged.code, damaged.param) == ("weights_hash_mismatch", "source.id")
    assert "damaged on its way" in str(damaged.hint)
    assert not list((tmp_path / "cache").glob("*.safetensors"))


@pytest.mark.parametrize(("code", "status"), [("weights_unauthorized", 401), ("weights_unauthorized", 403)])
def test_what_the_hub_refuses_asks_for_a_token(hub: Hub, tmp_path: Path, code: str, status: int) -> None:
    hub.push(NAME, {"model.safetensors": WEIGHTS})
    hub.fail(status)
    refused = rejection(tmp_path / "cache")
    assert (refused.code, refused.param) == (code, "source.id")
    assert "HF_TOKEN" in str(refused.hint)
    assert len(hub.requests) == 1


@pytest.mark.parametrize("gated", [False, True])
def test_a_token_opens_a_private_or_gated_repository(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gated: bool
) -> None:
    hub.push(NAME, {"model.safetensors": WEIGHTS})
    hub.repositories[NAME].token, hub.repositories[NAME].gated = "hf_right", gated
    assert rejection(tmp_path / "cache").code == "weights_unauthorized"
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert cached_weights(source(), tmp_path / "cache").stem == SHA256


def test_what_is_missing_is_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_any")  # without one, the Hub does not say whether a repository exists
    missing = rejection(tmp_path / "cache")
    assert (missing.code, missing.param) == ("weights_unavailable", "source.id")
    assert f"no repository {NAME}" in missing.message
    hub.push(NAME, {"README.md": b"no weights here"})
    missing = rejection(tmp_path / "cache", revision="v2")
    assert (missing.code, missing.param) == ("weights_unavailable", "source.revision")
    assert f"{NAME} at v2" in missing.message
    missing = rejection(tmp_path / "cache")
    assert (missing.code, missing.param) == ("weights_unavailable", "source.id")
    assert "model.safetensors" in missing.message
    hub.fail(404, within="resolve")
    hub.push(NAME, {"model.safetensors": WEIGHTS})
    assert rejection(tmp_path / "cache").code == "weights_unavailable"


@pytest.mark.parametrize("kind", [429, 500, 502, HANG])
def test_a_hub_that_fails_is_asked_again_but_not_for_ever(hub: Hub, tmp_path: Path, kind: int | str) -> None:
    hub.push(NAME, {"model.safetensors": WEIGHTS})
    hub.fail(kind)
    start = time.perf_counter()
    failed = rejection(tmp_path / "cache")
    assert (failed.code, failed.param) == ("hub_unavailable", "source.id")
    assert NAME in failed.message
    assert "words of the server" not in failed.message
    assert "http" not in failed.message  # neither the address of the mirror nor the client's own advice
    assert 1 < len(hub.requests) < 10
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("kind", [429, 503, HANG])
def test_a_hub_that_recovers_serves(hub: Hub, tmp_path: Path, kind: int | str) -> None:
    hub.push(NAME, {"model.safetensors": WEIGHTS})
    hub.fail(kind, times=1)
    assert cached_weights(source(), tmp_path / "cache").stem == SHA256


def test_a_hub_that_says_when_to_come_again_is_asked_then(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push(NAME, {"model.safetensors": WEIGHTS})
    hub.fail(429, times=1, retry_after="1")
    monkeypatch.setattr(asking_again, "PATIENCE_SECONDS", 1.6)
    start = time.perf_counter()
    assert cached_weights(source(), tmp_path / "cache").stem == SHA256
    assert time.perf_counter() - start > 1
    hub.requests.clear()
    hub.fail(429, retry_after="3600")
    assert rejection(tmp_path / "other").code == "hub_unavailable"
    assert len(hub.requests) == 1


@pytest.mark.parametrize("kind", [500, TRUNCATE])
def test_a_download_that_breaks_off_is_taken_up_again(hub: Hub, tmp_path: Path, kind: int | str) -> None:
    hub.push(NAME, {"model.safetensors": WEIGHTS})
    hub.fail(kind, within="resolve", times=2)
    assert cached_weights(source(), tmp_path / "cache").stem == SHA256


def test_a_server_that_is_no_hub_is_told_so(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert rejection(tmp_path / "cache").code == "hub_unavailable"


def test_offline_only_the_clients_own_cache_counts(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = b"---\nlicense: mit\n---\n"
    commit = hub.push(NAME, {"model.safetensors": WEIGHTS, "config.json": b'{"x": 1}', "README.md": card})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    offline = rejection(tmp_path / "cache")
    assert offline.code == "weights_unavailable"
    assert "HF_HUB_OFFLINE" in str(offline.hint)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for file in ("model.safetensors", "config.json", "README.md"):
        hf_hub_download(NAME, file, endpoint=hub.url)  # as `hf download` does
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    repository = find_repository(NAME, None)
    assert (repository.commit, repository.license) == (commit, "mit")
    assert fetch_json(repository, "config.json", tmp_path) == {"x": 1}
    assert fetch_json(repository, "preprocessor_config.json", tmp_path) is None
    assert cached_weights(source(), tmp_path / "cache").stem == SHA256
    assert Path(constants.HF_HUB_CACHE).is_dir()
    assert hub.requests == []


def test_a_pytorch_file_is_read_where_there_is_no_safetensors(hub: Hub, tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    pickled = (tmp_path / "pytorch_model.bin").read_bytes()
    hub.push(NAME, {"pytorch_model.bin": pickled})
    torch.testing.assert_close(read(cached_weights(source(), tmp_path / "cache")), TENSORS)
    hub.push(NAME, {"pytorch_model.bin": pickled, "model.safetensors": WEIGHTS})
    assert cached_weights(source(), tmp_path / "cache").stem == SHA256


def test_tensors_in_several_files_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.push(NAME, {"model-00001-of-00002.safetensors": WEIGHTS, "model.safetensors.index.json": b"{}"})
    assert rejection(tmp_path / "cache").code == "sharded_weights"


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff\xfe", b'"a"'])
def test_a_configuration_is_a_json_object(hub: Hub, tmp_path: Path, content: bytes) -> None:
    hub.push(NAME, {"config.json": content})
    with pytest.raises(ModelRejected) as caught:
        fetch_json(find_repository(NAME, None), "config.json", tmp_path)
    assert caught.value.code == "invalid_hub_config"


def test_what_does_not_fit_on_the_disk_is_not_begun(hub: Hub, tmp_path: Path) -> None:
    hub.push(NAME, {"model.safetensors": WEIGHTS})
    repository = find_repository(NAME, None)
    repository.sizes["model.safetensors"] = 10**18
    hub.requests.clear()
    with pytest.raises(ModelRejected) as caught:
        fetch_weights(repository, Transfer(tmp_path))
    assert caught.value.code == "no_room_on_disk"
    assert hub.requests == []


def test_a_disk_is_full_by_number_by_words_or_by_cause() -> None:
    assert disk_room.is_disk_full(OSError(errno.ENOSPC, "No space left on device"))
    assert disk_room.is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    caused = RuntimeError("wrapped")
    caused.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert disk_room.is_disk_full(caused)
    assert not disk_room.is_disk_full(OSError(errno.EACCES, "Permission denied"))


def test_the_patience_is_half_a_minute() -> None:
    assert json.dumps([hub_client.TIMEOUT_SECONDS, asking_again.PATIENCE_SECONDS]) == "[10.0, 30.0]"
