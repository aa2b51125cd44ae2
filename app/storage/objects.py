"""Bytes under keys: a local folder or any store that fsspec speaks, such as S3.

uploads/{dataset id}                          an archive as it was uploaded
datasets/{digest}.parquet                     the canonical images of a data set
extractions/{digest}/{model}/{version}        features and logits of one model on one data set
scores/{digest}/{model}/{version}             scores and per-image outcomes made from them
"""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


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
            file = self._files.open(path, "wb")
            try:
                yield file
            except BaseException:
                file.discard()
                raise
            file.close()
            return
        draft = f"{path}.{uuid.uuid4().hex}.part"
        self._files.makedirs(self._files._parent(path), exist_ok=True)
        try:
            with open(draft, "wb") as file:  # noqa: PTH123  (a plain file: fsspec's wrapper costs a copy)
                yield file
            Path(draft).replace(path)
        finally:
            Path(draft).unlink(missing_ok=True)

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

    def delete(self, key: str) -> None:
        """Delete an object or everything under a key; what is not there is no error."""
        path = self._path(key)
        if self._files.exists(path):
            self._files.rm(path, recursive=True)

    def keys(self) -> list[str]:
        """List every key, for audits and tests."""
        if not self._files.exists(self._root):
            return []
        return sorted(path.removeprefix(self._root).lstrip("/") for path in self._files.find(self._root))

    def check(self) -> None:
        """Write and delete one byte, or raise what the store raises."""
        key = f"checks/{uuid.uuid4().hex}"
        with self.create(key) as file:
            file.write(b".")
        self.delete(key)
