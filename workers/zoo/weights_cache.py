"""The folder of verified weights of one machine, shared by its worker processes, and bounded.

A file is named by the hash of what its source served; its time of modification says when it was last used.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

log = structlog.get_logger()

DRAFT = "incoming-"
"""How the folders begin in which weights are fetched and rewritten."""

_IN_USE_SECONDS = 60.0
"""Another process may be about to open what it found so lately: such a file stays. Open ones outlive their deletion."""


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

    def keep(self, sha256: str, file: Path) -> Path:
        """Move a file of the same file system into the folder, and make room for it; return where it lies now.

        Processes may race for the same file: its content is the same, and it appears whole or not at all.
        """
        path = self._path(sha256)
        os.utime(file)
        file.replace(path)
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
                if one != new and status.st_mtime < lately:
                    one.unlink(missing_ok=True)
                    total -= status.st_size
                    log.info("weights.dropped", file=one.name, bytes=status.st_size)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time make room: two would both count, and both delete."""
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
