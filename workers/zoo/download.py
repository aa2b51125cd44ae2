"""Files from elsewhere, hashed and never trusted."""

import hashlib
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import httpx

from app.domain.errors import ModelRejected
from workers.zoo.disk_room import is_disk_full

CHUNK = 1 << 20
_STATE_THE_HASH = "Check that the source serves the file you mean, then state its hash."
TIMEOUT = httpx.Timeout(30.0, connect=10.0)


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


def download(uri: str, path: Path) -> None:
    """Write what ``uri`` holds to ``path``, in constant memory.

    HTTP is read by httpx; every other scheme (``file``, ``s3``, ``gs``) by fsspec.

    Raises:
        ModelRejected: ``weights_unavailable``.
        OSError: the disk is full (``workers.zoo.disk_room.is_disk_full``).
    """
    try:
        if urlsplit(uri).scheme in {"http", "https"}:
            _download_http(uri, path)
        else:
            with fsspec.open(uri, "rb") as remote, path.open("wb") as local:
                while chunk := remote.read(CHUNK):
                    local.write(chunk)
    except (OSError, ValueError, ImportError, httpx.HTTPError, httpx.InvalidURL) as error:
        if is_disk_full(error):
            raise
        raise ModelRejected(
            "weights_unavailable",
            f"{uri} could not be read: {error}",
            param="source",
            hint="Check the address and that the worker can reach it.",
        ) from error


def _download_http(uri: str, path: Path) -> None:
    with httpx.stream("GET", uri, follow_redirects=True, timeout=TIMEOUT) as response:
        response.raise_for_status()
        with path.open("wb") as local:
            for chunk in response.iter_bytes(CHUNK):
                local.write(chunk)
