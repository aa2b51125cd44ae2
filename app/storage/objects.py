"""Bytes under keys: a local folder or any store that fsspec speaks, such as S3.

uploads/{dataset id}                          an archive as it was uploaded
datasets/{digest}.parquet                     the canonical images of a data set
extractions/{digest}/{model}/{version}        features and logits of one model on one data set
scores/{digest}/{model}/{version}             scores and per-image outcomes made from them
finetunes/{digest}/{fine-tune}/{model}.zip    tuned weights; beside them, while a model is trained, {model}.checkpoint
weights/{sha256}.safetensors                  weights of a model, as they were uploaded; incoming/ while they are
reports/{dataset id}.json                     what became of each file that is not part of the data set
drafts/                                       a local store's files that are still being written
"""

import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

_DRAFTS = "drafts"


def uploaded_weights(sha256: str) -> str:
    """Return the key of uploaded weights."""
    return f"weights/{sha256}.safetensors"


class Objects:
    """One object store. An object appears whole or not at all."""

    def __init__(self, url: str) -> None:
        """Open the store at ``url``, such as ``file:///var/lib/foretune/objects`` or ``s3://bucket/prefix``."""
        self._files, self._root = fsspec.core.url_to_fs(url)
        self._is_local = isinstance(self._files, LocalFileSystem)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    @contextmanager
    def create(self, key: str) -> Iterator[IO[bytes]]:
        """Yield a file to write; the object exists once the block has ended without an error."""
        path = self._path(key)
        if not self._is_local:
            file = self._files.open(path, "wb", autocommit=False)
            try:
                yield file
                file.close()
            except BaseException:
                file.discard()
                raise
            file.commit()
            return
        draft = Path(self._path(_DRAFTS)) / uuid.uuid4().hex
        draft.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("wb") as file:
                yield file
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def put(self, key: str, source: Path) -> None:
        """Store a copy of a local file."""
        with source.open("rb") as reading, self.create(key) as writing:
            shutil.copyfileobj(reading, writing, 1 << 20)

    def open(self, key: str) -> Any:
        """Open an object for reading; a missing one raises FileNotFoundError."""
        return self._files.open(self._path(key), "rb")

    def exists(self, key: str) -> bool:
        """Tell whether an object is there."""
        return bool(self._files.exists(self._path(key)))

    @contextmanager
    def as_file(self, key: str) -> Iterator[Path]:
        """Yield a local file with the object's bytes: the object itself in a local store, else a copy."""
        if self._is_local:
            path = Path(self._path(key))
            if not path.is_file():
                raise FileNotFoundError(key)
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="foretune-") as folder:
            path = Path(folder) / "object"
            self._files.get_file(self._path(key), str(path))
            yield path

    def move(self, key: str, target: str) -> None:
        """Give an object another key, in place of what had it."""
        if self._is_local:
            path = Path(self._path(target))
            path.parent.mkdir(parents=True, exist_ok=True)
            Path(self._path(key)).replace(path)
            return
        self._files.mv(self._path(key), self._path(target))

    def written_at(self, key: str) -> datetime:
        """Return when an object was written; a missing one raises FileNotFoundError."""
        moment: datetime = self._files.modified(self._path(key))
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def delete(self, key: str) -> None:
        """Delete an object or everything under a key; what is not there is no error."""
        path = self._path(key)
        while self._files.exists(path):
            try:
                self._files.rm(path, recursive=True)
            except FileNotFoundError:
                continue  # somebody else is deleting the same: look what is left

    def keys(self, folder: str = "") -> list[str]:
        """List every key, or those below a folder."""
        top = self._path(folder).rstrip("/")
        if not self._files.exists(top):
            return []
        keys = (path.removeprefix(self._root).lstrip("/") for path in self._files.find(top))
        return sorted(key for key in keys if not key.startswith(f"{_DRAFTS}/"))

    def discard_drafts(self, *, older_than_seconds: float) -> None:
        """Remove what processes left half-written when they were killed."""
        if not self._is_local:
            return  # such a store shows and keeps nothing of a write that did not end
        for draft in Path(self._path(_DRAFTS)).glob("*"):
            with suppress(FileNotFoundError):  # it has become an object meanwhile
                if draft.stat().st_mtime < time.time() - older_than_seconds:
                    draft.unlink()

    def check(self) -> None:
        """Write and delete one byte, or raise what the store raises."""
        key = f"checks/{uuid.uuid4().hex}"
        with self.create(key) as file:
            file.write(b".")
        self.delete(key)
