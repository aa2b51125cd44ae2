"""The folder of verified weights of one machine, shared by its worker processes, and bounded.

A file is named by the hash of what its source served; its time of modification says when it was last used. Who uses
one holds a shared lock on it, which ends with its process at the latest; only what nobody holds makes room for others.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import structlog

log = structlog.get_logger()

DRAFT = "incoming-"
"""How the folders begin in which weights are fetched and rewritten."""

_IN_USE_SECONDS = 60.0
"""Another process may be about to hold what it found so lately: such a file stays."""


class WeightsCache:
    """Keeps the weights that were used last, of at most so many bytes beyond those in use."""

    def __init__(self, folder: Path, most_bytes: int | None = None) -> None:
        """Look at nothing yet; without ``most_bytes``, everything is kept."""
        self.folder = folder
        self._most_bytes = most_bytes

    def find(self, sha256: str) -> Path | None:
        """Return the safetensors file of the original with this hash, and note that it is used."""
        path = self._path(sha256)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    @contextmanager
    def hold(self, path: Path) -> Iterator[bool]:
        """Keep a file of this folder where it is until the end; yield whether it was still there."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            yield False
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield _is_at(path, file)

    def keep(self, sha256: str, file: Path) -> Path:
        """Move a file of the same file system into the folder, and make room for it; return where it lies now.

        Processes may race for the same file: its content is the same, and it appears whole or not at all.
        """
        path = self._path(sha256)
        os.utime(file)
        # An equal file that is there already stays: somebody may hold it.
        with suppress(FileExistsError):
            os.link(file, path)
        file.unlink()
        if self._most_bytes is not None:
            self._make_room(path, self._most_bytes)
        return path

    def discard_drafts(self, *, older_than_seconds: float) -> None:
        """Remove what processes that were killed had begun to fetch: nothing is fetched for so long."""
        for folder in self.folder.glob(f"{DRAFT}*"):
            with suppress(FileNotFoundError):
                if folder.stat().st_mtime < time.time() - older_than_seconds:
                    shutil.rmtree(folder, ignore_errors=True)
                    log.info("weights.draft_discarded", folder=folder.name)

    def _path(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.safetensors"

    def _make_room(self, new: Path, most_bytes: int) -> None:
        with self._alone():
            files = [(one.stat(), one) for one in self.folder.glob("*.safetensors")]
            total = sum(status.st_size for status, _ in files)
            lately = time.time() - _IN_USE_SECONDS
            for status, one in sorted(files, key=lambda item: item[0].st_mtime):
                if total <= most_bytes:
                    return
                if one != new and status.st_mtime < lately and _dropped(one):
                    total -= status.st_size
                    log.info("weights.dropped", file=one.name, bytes=status.st_size)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time make room: two would both count, and both delete."""
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Tell whether an open file still lies there: before it was locked, it may have been deleted or replaced."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _dropped(path: Path) -> bool:
    """Delete a file that nobody holds; return whether it is gone."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink()
    return True
