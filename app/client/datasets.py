"""Data sets: upload, wait, list, delete."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from app.client.connection import Connection, segment
from app.client.jobs import every, wait_for
from app.client.resources import Dataset, FileOutcome
from app.client.sent_file import Observed, OnProgress, not_readable


class Datasets:
    """The data sets of the key's tenant."""

    def __init__(self, connection: Connection) -> None:
        """Work over a connection."""
        self._connection = connection

    def upload(
        self,
        source: str | os.PathLike[str] | IO[bytes],
        name: str | None = None,
        *,
        retention_days: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Dataset:
        """Send a zip, tar or tar.gz of class folders, in constant memory.

        An upload that breaks off is sent again from its beginning, and taken only once. Bytes that were uploaded
        before give the data set of that time.

        Args:
            source: a path, or a seekable file, which is read from its beginning and left open.
            name: for people; by default the file's name.
            retention_days: after how many days it is deleted; by default as the service is set up to.
            on_progress: called while bytes are sent.

        Returns:
            The data set, not yet prepared: ``wait`` for it.

        Raises:
            Failure: ``file_not_readable``.
            ApiError: the service refused the upload.
        """
        if isinstance(source, str | os.PathLike):
            path = Path(source)
            try:
                with path.open("rb") as file:
                    return self._send(file, name or path.name, retention_days, on_progress)
            except OSError as error:
                raise not_readable(str(path), error.strerror or str(error)) from error
        if not source.seekable():
            raise not_readable(name or "the file", "it cannot be read twice, should the connection break off")
        found_name = name or Path(str(getattr(source, "name", "dataset"))).name
        return self._send(source, found_name, retention_days, on_progress)

    def _send(
        self, file: IO[bytes], name: str, retention_days: float | None, on_progress: OnProgress | None
    ) -> Dataset:
        size = file.seek(0, os.SEEK_END)
        response = self._connection.send(
            "POST",
            "/v1/datasets",
            headers={"Idempotency-Key": uuid.uuid4().hex},
            repeatable=True,
            params={"retention_days": retention_days},
            data={"name": name},
            files={"file": (name, Observed(file, size, on_progress))},
        )
        return self._connection.read(response, Dataset)

    def get(self, dataset_id: str) -> Dataset:
        """Return one data set."""
        return self._connection.get(f"/v1/datasets/{segment(dataset_id)}", Dataset)

    def wait(
        self, dataset_id: str, *, timeout: float | None = None, on_change: Callable[[Dataset], None] | None = None
    ) -> Dataset:
        """Return a data set once it is ready; ``on_change`` sees it whenever something changed.

        Raises:
            JobFailed: it was rejected.
            WaitTimedOut: it is not ready within ``timeout`` seconds.
        """
        return wait_for(
            self._connection,
            f"/v1/datasets/{segment(dataset_id)}",
            Dataset,
            timeout=timeout,
            on_change=on_change,
        )

    def list(self) -> Iterator[Dataset]:
        """Yield every data set, newest first."""
        return every(self._connection, "/v1/datasets", Dataset)

    def files(self, dataset_id: str) -> Iterator[FileOutcome]:
        """Yield every file that did not become part of a data set, with the reason."""
        return every(self._connection, f"/v1/datasets/{segment(dataset_id)}/files", FileOutcome)

    def delete(self, dataset_id: str) -> None:
        """Delete a data set and everything computed from it."""
        self._connection.send("DELETE", f"/v1/datasets/{segment(dataset_id)}")
