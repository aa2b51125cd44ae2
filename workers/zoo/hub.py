"""Files of a repository on the Hugging Face Hub, or a mirror of it, by its own client.

The client's environment variables count: ``HF_ENDPOINT`` names a mirror, ``HF_TOKEN`` opens private and gated
repositories, and with ``HF_HUB_OFFLINE`` only what lies in the client's own cache is used. A branch or tag is resolved
to a commit once; what is fetched afterwards is that commit's.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import structlog
from huggingface_hub import HfApi, constants, hf_hub_url, metadata_load, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from app.domain.errors import ModelRejected
from workers.zoo.asking_again import asked_again, is_passing_status
from workers.zoo.disk_room import is_disk_full, require_room
from workers.zoo.download import verify_sha256
from workers.zoo.hub_session import pause, requests_of
from workers.zoo.transfer import Transfer

log = structlog.get_logger()

TIMEOUT_SECONDS = 10.0
PAGES = "https://huggingface.co"
"""Where a repository's page is, whichever mirror serves its files: a licence is stated there."""

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names under which a repository keeps all tensors in one file, best first."""

_MOST_CONFIG_BYTES = 8 << 20

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Repository:
    """One commit of a repository.

    Attributes:
        id: ``ORGANISATION/NAME``.
        commit: its 40 digits.
        sizes: bytes of each file, None where the Hub does not say; empty when offline.
        hashes: SHA-256 of each file of which the Hub states it: of all large ones.
        license: as its card states it, ``""`` where it does not.
        datasets: that it was trained on, as its card states them.
        online: whether the Hub was asked.
    """

    id: str
    commit: str
    sizes: dict[str, int | None]
    hashes: dict[str, str]
    license: str
    datasets: tuple[str, ...]
    online: bool

    @property
    def page(self) -> str:
        """The address of its page on the Hub itself: a mirror's is nobody's statement."""
        return f"{PAGES}/{self.id}"


def find_repository(repository: str, revision: str | None) -> Repository:
    """Return the commit that a branch, tag or commit names now, the default branch's without one.

    Raises:
        ModelRejected: ``weights_unavailable``, ``weights_unauthorized``, ``hub_unavailable``.
    """
    called = f"{repository} at {revision}" if revision else repository
    if _is_offline():
        commit = _ask(called, lambda: _api().resolve_revision(repository, revision=revision, local_files_only=True))
        card = try_to_load_from_cache(repository, "README.md", revision=commit.resolved)
        stated = metadata_load(card) if isinstance(card, str) else None
        return Repository(repository, commit.resolved, {}, {}, *_card(stated), online=False)
    info = _ask(
        called,
        lambda: _api().model_info(repository, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS),
    )
    license_, datasets = _card(info.card_data.to_dict() if info.card_data else None)  # type: ignore[no-untyped-call]
    return Repository(
        id=repository,
        commit=str(info.sha),
        sizes={file.rfilename: file.size for file in info.siblings or []},
        hashes={file.rfilename: file.lfs.sha256 for file in info.siblings or [] if file.lfs},
        license=license_,
        datasets=datasets,
        online=True,
    )


def _card(stated: dict[str, Any] | None) -> tuple[str, tuple[str, ...]]:
    """Return licence and data sets of a card's header."""
    stated = stated or {}
    name = stated.get("license")
    name = stated.get("license_name") if name == "other" else name
    datasets = stated.get("datasets") or ()
    datasets = (datasets,) if isinstance(datasets, str) else datasets
    return str(name or ""), tuple(map(str, datasets))


def fetch_weights(repository: Repository, transfer: Transfer, name: str | None = None) -> Path:
    """Bring the file of all tensors into the transfer's directory.

    Args:
        repository: whose commit counts.
        transfer: its directory has room for the file and its rewritten copy, or the file is refused.
        name: the file; without it, the first of ``WEIGHTS`` that is there.

    Raises:
        ModelRejected: as ``find_repository``; ``weights_hash_mismatch``, ``sharded_weights``, ``no_room_on_disk``.
    """
    if not repository.online:
        return _fetch_cached(repository, [name] if name else WEIGHTS)
    name = name or _weights_name(repository)
    require_room(transfer.directory, 2 * (repository.sizes.get(name) or 0))
    with requests_of(transfer):
        path = _download(repository, name, transfer.directory)
    if name in repository.hashes:
        hint = "It was damaged on its way, by a mirror or a proxy: try again, or another HF_ENDPOINT."
        verify_sha256(path, repository.hashes[name], f"{name} of {repository.id}", "source.id", hint)
    return path


def fetch_json(repository: Repository, name: str, directory: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file of the repository; None where there is no such file.

    Raises:
        ModelRejected: as ``find_repository``; ``invalid_hub_config`` for anything but a JSON object.
    """
    if not repository.online:
        try:
            path = _fetch_cached(repository, [name])
        except ModelRejected:
            return None
    elif name not in repository.sizes:
        return None
    else:
        path = _download(repository, name, directory)
    try:
        content = json.loads(path.read_bytes() if path.stat().st_size <= _MOST_CONFIG_BYTES else b"")
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ModelRejected(
            "invalid_hub_config",
            f"{name} of {repository.id} is not a JSON object",
            param="source.id",
            hint="Use another revision, or register the weights by a safetensors source.",
        )
    return content


def _weights_name(repository: Repository) -> str:
    for name in WEIGHTS:
        if name in repository.sizes:
            return name
    if any(name.endswith(".index.json") for name in repository.sizes):
        raise ModelRejected(
            "sharded_weights",
            f"{repository.id} keeps its tensors in several files",
            param="source.id",
            hint="Join them into one safetensors file and upload it, or use a smaller variant.",
        )
    raise _unavailable(
        f"{repository.id} has none of " + " and ".join(WEIGHTS), "Check that it is a PyTorch model.", "source.id"
    )


def _fetch_cached(repository: Repository, names: tuple[str, ...] | list[str]) -> Path:
    for name in names:
        try:
            path = _api().hf_hub_download(repository.id, name, revision=repository.commit, local_files_only=True)
        except EntryNotFoundError:
            continue
        return Path(path).resolve()
    raise _offline(f"{' or '.join(names)} of {repository.id}")


def _download(repository: Repository, name: str, directory: Path) -> Path:
    api, called = _api(), f"{name} of {repository.id}"
    url = hf_hub_url(repository.id, name, revision=repository.commit, endpoint=_endpoint())
    # Asked for first, because the client itself would ask a Hub that hangs for minutes.
    _ask(called, lambda: api.get_hf_file_metadata(url=url, timeout=TIMEOUT_SECONDS))

    def download() -> str:
        return api.hf_hub_download(repository.id, name, revision=repository.commit, cache_dir=directory / "hub")

    return Path(_ask(called, download)).resolve()


def _api() -> HfApi:
    return HfApi(endpoint=_endpoint())


def _endpoint() -> str:
    # The client reads its variables when it is imported; this way a later change counts, too.
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT


def _is_offline() -> bool:
    return constants.is_offline_mode() or os.environ.get("HF_HUB_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES


def _ask(called: str, question: Callable[[], _Answer]) -> _Answer:
    """Return the Hub's answer, asking again while it is only for now that there is none."""
    try:
        return asked_again(question, is_passing=_is_passing, retry_after=_retry_after, pause=pause)
    except (OSError, ValueError, EntryNotFoundError, RevisionResolutionError, httpx2.HTTPError) as error:
        raise _told(error, called) from error


def _is_passing(error: BaseException) -> bool:
    """Tell whether the same request may succeed a little later."""
    error = _cause(error)
    if isinstance(error, HfHubHTTPError):
        return is_passing_status(error.response.status_code)
    if isinstance(error, OfflineModeIsEnabled) or is_disk_full(error):
        return False
    return isinstance(error, (httpx2.TransportError, ConnectionError, TimeoutError)) or "Consistency check" in str(
        error
    )


def _retry_after(error: BaseException) -> str | None:
    cause = _cause(error)
    return cause.response.headers.get("retry-after") if isinstance(cause, HfHubHTTPError) else None


def _cause(error: BaseException) -> BaseException:
    """Return what the client met before it found nothing in its own cache."""
    return error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None else error


def _told(error: Exception, called: str) -> ModelRejected:
    """Say what a failure of the client means to who registered the model."""
    if is_disk_full(error):
        raise error  # told for all sources alike
    cause = _cause(error)
    log.warning("hub.failed", about=called, error=f"{type(cause).__name__}: {cause}")
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    if isinstance(cause, (OfflineModeIsEnabled, RevisionResolutionError)):
        return _offline(called)
    if isinstance(cause, GatedRepoError) or status in {401, 403}:
        return ModelRejected(
            "weights_unauthorized",
            f"the Hub refuses {called} with status {status}: it is private or gated, or does not exist",
            param="source.id",
            hint="Check the name; accept the licence on its page, and set HF_TOKEN for the workers.",
        )
    if isinstance(cause, RepositoryNotFoundError):
        return _unavailable(f"the Hub has no repository {called}", "Check ORGANISATION/NAME.", "source.id")
    if isinstance(cause, RevisionNotFoundError):
        return _unavailable(f"there is no such revision: {called}", "Check the branch or commit.", "source.revision")
    if isinstance(cause, EntryNotFoundError):
        return _unavailable(f"the Hub has no file {called}", "Check that it is a PyTorch model.", "source.id")
    if isinstance(cause, FileMetadataError):
        hint = "Check HF_ENDPOINT and the proxy."
        return _unavailable(f"{called} could not be found: what answers is no Hub", hint, "source.id")
    if _is_passing(cause):
        reason = f"it answers with status {status}" if status else "no connection, or no answer in time"
        return ModelRejected(
            "hub_unavailable",
            f"the Hub cannot be asked about {called}: {reason}",
            param="source.id",
            hint="Try again later; behind a firewall, set HF_ENDPOINT to a mirror.",
        )
    reason = f"the Hub answers with status {status}" if status else f"the Hub's client failed ({type(cause).__name__})"
    hint = "Check the name and the Hub's page; the worker's log has the details."
    return _unavailable(f"{called} could not be read: {reason}", hint, "source.id")


def _unavailable(message: str, hint: str, param: str) -> ModelRejected:
    return ModelRejected("weights_unavailable", message, param=param, hint=hint)


def _offline(called: str) -> ModelRejected:
    hint = "Fetch it on this machine with hf download, or unset HF_HUB_OFFLINE."
    message = f"{called} is not in the cache in {constants.HF_HUB_CACHE}, and the Hub may not be asked"
    return _unavailable(message, hint, "source.id")
