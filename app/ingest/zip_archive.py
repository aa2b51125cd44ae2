"""Zip archives: the central directory is the list, each entry is inflated on its own."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.domain.errors import DatasetRejected
from app.ingest.archive import Member, MemberDamaged, MemberStream, corrupt_archive, truncated_archive
from app.ingest.limits import Allowance, Limits, bomb
from app.ingest.member_path import decoded_name, safe_path, unsafe

_ENCRYPTED = 0x1 | 0x40 | 0x2000  # traditional, strong, and masked headers: APPNOTE 4.4.4
_UTF8 = 0x800
_AVERAGE_RECORD_BYTES = 192  # central directory: 46 fixed bytes, the name, extra fields of 24 to 36 bytes
_SPECIAL = (stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)
# Deflate alone is both common and inflated in bounded memory: LZMA's dictionary may ask for 4 GiB.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ZipArchive:
    """A zip file, listed from its central directory."""

    def __init__(self, path: Path, limits: Limits) -> None:
        """List the archive.

        Raises:
            DatasetRejected: as :func:`app.ingest.archive.open_archive`.
        """
        self._path = path
        self._limits = limits
        self._archive_bytes = path.stat().st_size
        with self._open() as archive:
            self.members = self._listed(archive.infolist())

    def read(self, wanted: Collection[int]) -> Generator[tuple[Member, MemberStream], None, None]:
        """Yield the wanted members in the order of the central directory."""
        allowance = Allowance(self._limits, self._archive_bytes)
        with self._open() as archive:
            entries = archive.infolist()
            for member in self.members:
                if member.index in wanted:
                    yield member, _ZipStream(archive, entries[member.index], allowance)

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        with _BoundedFile(self._path, self._limits.max_entries * _AVERAGE_RECORD_BYTES) as file:
            try:
                archive = zipfile.ZipFile(file)
            except zipfile.BadZipFile as error:
                if "not a zip file" in str(error):
                    raise truncated_archive("it has no central directory") from error
                raise corrupt_archive(str(error)) from error
            except (ValueError, OSError, EOFError, OverflowError, struct.error, NotImplementedError) as error:
                raise corrupt_archive(f"its central directory cannot be read ({error})") from error
            with archive:
                yield archive

    def _listed(self, entries: list[zipfile.ZipInfo]) -> list[Member]:
        if len(entries) > self._limits.max_entries:
            raise bomb(f"The archive holds {len(entries)} entries; the limit is {self._limits.max_entries}.")
        if sum(entry.compress_size for entry in entries) > self._archive_bytes:
            raise bomb("Entries of the archive overlap: together they are longer than the file.")
        allowance = Allowance(self._limits, self._archive_bytes)
        members = []
        for index, entry in enumerate(entries):
            name, guessed = _name(entry)
            path, spelling = safe_path(name)
            if stat.S_IFMT(entry.external_attr >> 16) in _SPECIAL:
                raise unsafe(name, "a link or a special file")
            if entry.flag_bits & _ENCRYPTED:
                raise DatasetRejected(
                    "archive_encrypted",
                    f"The entry {path!r} is encrypted.",
                    param=path,
                    hint="Pack the images again without a password.",
                )
            # Not ZipInfo.is_dir(): archives from Windows end their folders with a backslash.
            if not path or name.endswith(("/", "\\")):
                continue
            if entry.compress_type not in _METHODS:
                method = zipfile.compressor_names.get(entry.compress_type, str(entry.compress_type))  # type: ignore[attr-defined]
                raise DatasetRejected(
                    "unsupported_archive",
                    f"The entry {path!r} is compressed with {method}.",
                    param=path,
                    hint="Pack again with the usual deflate method, or as tar.gz.",
                )
            allowance.admit(path, entry.file_size)
            members.append(Member(index, path, spelling, guessed, entry.file_size))
        return members


def _name(entry: zipfile.ZipInfo) -> tuple[str, bool]:
    if entry.flag_bits & _UTF8:
        return entry.orig_filename, False
    # zipfile decoded these bytes as code page 437, which maps all 256 of them, so they can be had back.
    return decoded_name(entry.orig_filename.encode("cp437"), entry.extra)


class _ZipStream:
    """One entry, opened at the first read."""

    def __init__(self, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, allowance: Allowance) -> None:
        self._archive = archive
        self._entry = entry
        self._allowance = allowance
        self._file: io.BufferedIOBase | None = None
        self._read = 0

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes; see :class:`app.ingest.archive.MemberStream`."""
        try:
            if self._file is None:
                self._file = self._archive.open(self._entry)  # type: ignore[assignment]
            chunk = self._file.read(size)  # type: ignore[union-attr]
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            OSError,
            ValueError,
            struct.error,
            NotImplementedError,
        ) as error:
            raise MemberDamaged(str(error) or type(error).__name__) from error
        self._read += len(chunk)
        self._allowance.check_entry(self._entry.filename, self._read)
        self._allowance.spend(len(chunk))
        return chunk


class _BoundedFile(io.BufferedReader):
    """A file that refuses the one large read that zipfile makes: the whole central directory at once."""

    def __init__(self, path: Path, max_directory_bytes: int) -> None:
        super().__init__(io.FileIO(path))
        self._max_directory_bytes = max_directory_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._max_directory_bytes:
            raise bomb(f"The archive's directory alone takes {size} bytes.")
        return super().read(size)
