"""Tar archives, plain or gzipped: one sequential pass to list, another to read."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from app.ingest.archive import Member, MemberStream, corrupt_archive, truncated_archive
from app.ingest.limits import MIB, Allowance, Limits, bomb
from app.ingest.member_path import decoded_name, safe_path, unsafe

_MAX_READ = 4 * MIB
_SKIP = MIB


class TarArchive:
    """A tar file, listed from its headers."""

    def __init__(self, path: Path, limits: Limits, *, gzipped: bool) -> None:
        """List the archive.

        Raises:
            DatasetRejected: as :func:`app.ingest.archive.open_archive`.
        """
        self._path = path
        self._limits = limits
        self._gzipped = gzipped
        self._archive_bytes = path.stat().st_size
        self.members = self._listed()

    def read(self, wanted: Collection[int]) -> Generator[tuple[Member, MemberStream], None, None]:
        """Yield the wanted members in the order of the archive."""
        members = {member.index: member for member in self.members if member.index in wanted}
        with self._open() as (stream, archive):
            for index, header in enumerate(_headers(stream, archive)):
                if index in members:
                    file = archive.extractfile(header)
                    assert file is not None, "only regular files are listed"
                    yield members[index], _TarStream(file)

    def _listed(self) -> list[Member]:
        members = []
        allowance = Allowance(self._limits, self._archive_bytes)
        with self._open() as (stream, archive):
            for index, header in enumerate(_headers(stream, archive)):
                if index >= self._limits.max_entries:
                    raise bomb(f"The archive holds more than {self._limits.max_entries} entries.")
                name, guessed = decoded_name(header.name.encode("utf-8", "surrogateescape"))
                path, spelling = safe_path(name)
                if not (header.isreg() or header.isdir()):
                    raise unsafe(name, "a link or a special file")
                if header.isreg() and path:
                    allowance.admit(path, header.size)
                    members.append(Member(index, path, spelling, guessed, header.size))
        return members

    @contextmanager
    def _open(self) -> Iterator[tuple["_BoundedStream", tarfile.TarFile]]:
        with self._path.open("rb") as file:
            raw = gzip.GzipFile(fileobj=file) if self._gzipped else file
            stream = _BoundedStream(raw, Allowance(self._limits, self._archive_bytes), seekable=not self._gzipped)
            with (
                _told(),
                tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape") as archive,
            ):
                yield stream, archive


def _headers(stream: "_BoundedStream", archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (header := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
        yield header
    # tarfile ends quietly at a broken header as well as at the end: only a block of zeros is the end (POSIX ustar).
    if len(stream.last_read) < tarfile.BLOCKSIZE:
        raise truncated_archive("the end-of-archive block is missing")
    if any(stream.last_read):
        raise corrupt_archive(f"no file header at byte {archive.offset}")
    while stream.read(_SKIP):  # to the end, where gzip keeps its checksum
        pass


@contextmanager
def _told() -> Iterator[None]:
    """Turn the reading errors of tarfile, gzip and zlib into the archive's rejection."""
    try:
        yield
    except EOFError as error:
        raise truncated_archive("the gzip stream stops in the middle") from error
    except tarfile.TarError as error:
        if "end of data" in str(error) or "truncated" in str(error):
            raise truncated_archive("it stops inside a file") from error
        raise corrupt_archive(str(error)) from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise corrupt_archive(f"the gzip stream cannot be inflated ({error})") from error
    except (ValueError, IndexError, OverflowError) as error:
        raise corrupt_archive(f"a file header cannot be read ({error})") from error


class _TarStream:
    """One member; its errors reach :func:`_told`'s callers as the archive's rejection."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes; see :class:`app.ingest.archive.MemberStream`."""
        with _told():
            return self._file.read(min(size, _MAX_READ))


class _BoundedStream(io.RawIOBase):
    """The uncompressed bytes of the archive: forward only where gzipped, counted, and no read of unbounded size.

    tarfile reads an extended header in one piece of whatever size it declares, which is how a small archive could ask
    for all the memory there is.
    """

    def __init__(self, raw: IO[bytes] | gzip.GzipFile, allowance: Allowance, *, seekable: bool) -> None:
        super().__init__()
        self._raw = raw
        self._allowance = allowance
        self._seekable = seekable
        self._position = 0
        self.last_read = b""

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _MAX_READ:
            raise bomb(f"A header of the archive declares {size} bytes.")
        self.last_read = chunk = self._raw.read(size)
        self._position += len(chunk)
        self._allowance.spend(len(chunk))
        return chunk

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if self._seekable:
            self._position = self._raw.seek(offset, whence)
            return self._position
        assert whence == io.SEEK_SET
        assert offset >= self._position, "tarfile only moves forward here"
        while self._position < offset and self.read(min(_SKIP, offset - self._position)):
            pass
        return self._position
