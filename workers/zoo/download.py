"""Files from elsewhere, hashed and never trusted."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import fsspec
import structlog

from app.domain.errors import ModelRejected
from app.domain.model_sources import without_queries
from workers.zoo.disk_room import is_disk_full
from workers.zoo.http_download import download_http
from workers.zoo.transfer import Transfer

log = structlog.get_logger()

CHUNK = 1 << 20
_STATE_THE_HASH = "Check that the source serves the file you mean, then state its hash."


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_sha256(path: Path, expected: str, what: str, param: str, hint: str = _STATE_THE_HASH) -> None:
    """Refuse a file whose SHA-256 does not begin with ``expected``.

    Raises:
        ModelRejected: ``weights_hash_mismatch``.
    """
    found = file_sha256(path)
    if not found.startswith(expected):
        raise ModelRejected(
            "weights_hash_mismatch",
            f"{what} has SHA-256 {found}, not {expected}",
            param=param,
            hint=hint,
        )


def download(uri: str, path: Path, transfer: Transfer) -> None:
    """Write what ``uri`` holds to ``path``, in constant memory.

    HTTP is read by httpx (``workers.zoo.http_download``); every other scheme (``file``, ``s3``, ``gs``) by fsspec.

    Raises:
        ModelRejected: ``weights_unavailable``, ``weights_unauthorized``, ``source_unavailable``, ``no_room_on_disk``.
        TransferGivenUp: the file is not wanted any more.
        OSError: the disk is full (``workers.zoo.disk_room.is_disk_full``).
    """
    if urlsplit(uri).scheme in {"http", "https"}:
        download_http(uri, path, transfer)
        return
    try:
        with fsspec.open(uri, "rb") as remote:
            transfer.write(blocks_of(remote), path, getattr(remote, "size", None))
    except (OSError, ValueError, ImportError) as error:
        if is_disk_full(error):
            raise
        raise _unreadable(uri, error) from error


def _unreadable(uri: str, error: Exception) -> ModelRejected:
    """Say in own words why fsspec could not read an address; what it said itself may show where its keys are."""
    called = without_queries(uri)
    log.warning("download.failed", uri=called, error=without_queries(f"{type(error).__name__}: {error}"))
    code, hint = "weights_unavailable", "Check the address and that the worker can reach it."
    if isinstance(error, FileNotFoundError):
        reason = "there is no such file"
    elif isinstance(error, PermissionError):
        code, reason, hint = "weights_unauthorized", "the worker may not read it", "Give the workers the right to."
    elif isinstance(error, ImportError):
        reason = f"this worker lacks the package that reads {urlsplit(uri).scheme}://"
        hint = "Install fsspec's package for it beside the workers, or use http(s)://, s3:// or an upload."
    elif isinstance(error, OSError):
        reason = "its store does not answer as it should"
        hint += " Its log has the details."
    else:
        reason, hint = "this is no address that can be read", "Write file://, http(s):// or s3://."
    return ModelRejected(code, f"{called} could not be read: {reason}", param="source", hint=hint)


def blocks_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the rest of a file in blocks."""
    while block := file.read(CHUNK):
        yield block
