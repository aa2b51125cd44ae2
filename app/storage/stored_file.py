"""Files of a remote object store, whose failures are all told in the same way."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import structlog
from fsspec.spec import AbstractBufferedFile

from app.domain.errors import ForetuneError, Unavailable
from app.storage.full_disk import is_out_of_room, storage_full

log = structlog.get_logger()

_READ_BYTES = 1 << 16


@contextmanager
def reaching_store() -> Iterator[None]:
    """Turn whatever a store raises into ``storage_unavailable`` or ``storage_full``; a missing object stays what it is.

    Raises:
        Unavailable: ``storage_unavailable``, ``storage_full``.
        FileNotFoundError: the object is missing.
    """
    try:
        yield
    except (ForetuneError, FileNotFoundError):
        raise
    except Exception as error:  # each store has its own errors; to those who use it they mean the same
        raise unavailable(error) from error


def unavailable(error: BaseException) -> Unavailable:
    """Log what a store raised and return what is told of it, which names neither its address nor its keys."""
    log.error("objects.unavailable", error=f"{type(error).__name__}: {error}")
    if is_out_of_room(error):
        return storage_full("The object store", "where the objects lie")
    message, hint = "The object store does not answer as it should.", "Try again in a few seconds; see /readyz."
    return Unavailable("storage_unavailable", message, hint=hint)


def reading(file: Any) -> IO[bytes]:
    """Return a seekable reader of an object that fsspec opened."""
    return io.BufferedReader(_Reading(file), _READ_BYTES)


class Writing(io.RawIOBase):
    """What is written to an object that does not exist before ``publish``."""

    def __init__(self, file: Any) -> None:
        """Take a file that fsspec opened with ``autocommit=False``."""
        self._file = file

    def writable(self) -> bool:
        """Tell that it is written to."""
        return True

    def write(self, data: Any, /) -> int:
        """Send all of ``data``, or keep it until there is enough for a part of an upload."""
        with reaching_store():
            self._file.write(data)
        return memoryview(data).nbytes

    def tell(self) -> int:
        """Return how many bytes were written."""
        return int(self._file.tell())

    def publish(self) -> None:
        """Let the object appear, in place of the one before."""
        try:
            with reaching_store():
                self._file.close()
                self._file.commit()
        except FileNotFoundError as no_bucket:
            raise unavailable(no_bucket) from no_bucket

    def discard(self) -> None:
        """Forget what was written, as far as the store can be reached; the sweep finds the rest of an upload."""
        try:
            self._file.discard()
        except Exception as error:  # noqa: BLE001  (what went wrong before is what is told)
            log.warning("objects.not_discarded", error=f"{type(error).__name__}: {error}")
        if isinstance(self._file, AbstractBufferedFile):
            self._file.closed = True  # its finaliser would send what is left


class _Reading(io.RawIOBase):
    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        with reaching_store():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
