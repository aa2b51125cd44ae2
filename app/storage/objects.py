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
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import IO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from app.s3_access import S3Access
from app.storage.stored_file import Writing, reaching_store, reading, unavailable

_DRAFTS = "drafts"


def uploaded_weights(sha256: str) -> str:
    """Return the key of uploaded weights."""
    return f"weights/{sha256}.safetensors"


class Objects:
    """One object store. An object appears whole or not at all.

    Every method raises Unavailable: ``storage_unavailable``, when the store fails, refuses or stays silent; an S3 store
    does so after three times the silence that ``s3`` allows; ``storage_full``, when there is no room for an object.
    """

    def __init__(self, url: str, s3: S3Access | None = None, *, copies: Path | None = None) -> None:
        """Open the store at ``url``, such as ``file:///var/lib/foretune/objects`` or ``s3://bucket/prefix``.

        Args:
            url: the store, in a form that fsspec knows. Nothing is sent to it yet.
            s3: how an S3 store is reached.
            copies: a folder for local copies of remote objects; by default the system's temporary one.
        """
        self._is_s3 = url.startswith("s3://")
        if self._is_s3:
            from app.storage.s3_files import BoundedS3FileSystem  # takes half a second, for those who need it

            self._files, root = BoundedS3FileSystem(**(s3 or S3Access()).options()), url.removeprefix("s3://")
        else:
            self._files, root = fsspec.core.url_to_fs(url)
        self._root = root.rstrip("/")
        self._is_local = isinstance(self._files, LocalFileSystem)
        self._copies = copies

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def prepare(self) -> None:
        """Make the folder or the bucket where there is none."""
        place = self._root.partition("/")[0] if self._is_s3 else self._root
        with reaching_store():
            if not self._files.exists(place):
                with suppress(FileExistsError):  # another process was quicker
                    self._files.mkdir(place, create_parents=True)

    @contextmanager
    def create(self, key: str) -> Iterator[IO[bytes]]:
        """Yield a file to write; the object exists once the block has ended without an error."""
        path = self._path(key)
        if self._is_local:
            with self._create_locally(Path(path)) as file:
                yield file
            return
        with reaching_store():
            draft = Writing(self._files.open(path, "wb", autocommit=False))
        try:
            yield cast("IO[bytes]", draft)
            draft.publish()
        except BaseException:
            draft.discard()
            raise

    @contextmanager
    def _create_locally(self, path: Path) -> Iterator[IO[bytes]]:
        draft = Path(self._path(_DRAFTS)) / uuid.uuid4().hex
        try:
            draft.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                yield file
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(path)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise unavailable(error) from error
        finally:
            draft.unlink(missing_ok=True)

    def put(self, key: str, source: Path) -> None:
        """Store a copy of a local file."""
        with source.open("rb") as original, self.create(key) as copy:
            shutil.copyfileobj(original, copy, 1 << 20)

    def open(self, key: str) -> IO[bytes]:
        """Open an object for reading; a missing one raises FileNotFoundError."""
        with reaching_store():
            file = self._files.open(self._path(key), "rb")
        return cast("IO[bytes]", file) if self._is_local else reading(file)

    def exists(self, key: str) -> bool:
        """Tell whether an object is there."""
        with reaching_store():
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
        with tempfile.TemporaryDirectory(prefix="foretune-", dir=self._copies) as folder:
            path = Path(folder) / "object"
            with reaching_store():
                self._files.get_file(self._path(key), str(path))
            yield path

    def move(self, key: str, target: str) -> None:
        """Give an object another key, in place of what had it.

        A remote store copies: whoever is killed in between leaves both.
        """
        with reaching_store():
            if self._is_local:
                path = Path(self._path(target))
                path.parent.mkdir(parents=True, exist_ok=True)
                Path(self._path(key)).replace(path)
                return
            self._files.cp_file(self._path(key), self._path(target))
            self._files.rm_file(self._path(key))

    def written_at(self, key: str) -> datetime:
        """Return when an object was written; a missing one raises FileNotFoundError."""
        with reaching_store():
            moment: datetime = self._files.modified(self._path(key))
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def delete(self, key: str) -> None:
        """Delete an object or everything under a key; what is not there is no error."""
        path = self._path(key)
        with reaching_store():
            while self._files.exists(path):
                try:
                    self._files.rm(path, recursive=True)
                except FileNotFoundError:
                    continue  # somebody else is deleting the same: look what is left

    def keys(self, folder: str = "") -> list[str]:
        """List every key, or those below a folder."""
        top = self._path(folder).rstrip("/")
        with reaching_store():
            paths = self._find(top)
        keys = (path.removeprefix(self._root).lstrip("/") for path in paths)
        return sorted(key for key in keys if not key.startswith(f"{_DRAFTS}/"))

    def names(self, folder: str) -> list[str]:
        """List what lies in a folder, objects and folders by their names alone, without looking into those."""
        path = self._path(folder)
        with reaching_store():
            try:
                paths = self._files.ls(path, detail=False)
            except FileNotFoundError:
                return []
        return sorted({PurePosixPath(found).name for found in paths} - {PurePosixPath(path).name})

    def _find(self, top: str) -> list[str]:
        if not self._is_s3 and not self._files.exists(top):
            return []  # s3fs takes a bucket that it cannot reach for one that is not there
        try:
            return list(self._files.find(top))
        except FileNotFoundError:
            return []

    def discard_drafts(self, *, older_than_seconds: float) -> None:
        """Remove what processes left half-written when they were killed."""
        if self._is_s3:
            self._abort_uploads(older_than_seconds)
        if not self._is_local:
            return  # such a store shows and keeps nothing of a write that did not end
        for draft in Path(self._path(_DRAFTS)).glob("*"):
            with suppress(FileNotFoundError):  # it has become an object meanwhile
                if draft.stat().st_mtime < time.time() - older_than_seconds:
                    draft.unlink()

    def _abort_uploads(self, older_than_seconds: float) -> None:
        """Abort uploads in parts that nobody completes: an S3 store does not list them, and has them paid for."""
        bucket, _, prefix = self._root.partition("/")
        before = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        with reaching_store():
            found = self._files.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix and f"{prefix}/")
            for upload in found.get("Uploads", []):
                if upload["Initiated"] < before:
                    with suppress(FileNotFoundError):  # another worker's sweep was quicker
                        self._files.abort_mpu(bucket, upload["Key"], upload["UploadId"])

    def check(self, size: int = 1) -> None:
        """Write and delete an object of ``size`` bytes."""
        key = f"checks/{uuid.uuid4().hex}"
        content = bytes(size)
        if self._is_local:
            with self.create(key) as file:
                file.write(content)
            self.delete(key)
            return
        try:
            with reaching_store():
                self._files.pipe_file(self._path(key), content)
                self._files.rm_file(self._path(key))
        except FileNotFoundError as no_bucket:
            raise unavailable(no_bucket) from no_bucket
