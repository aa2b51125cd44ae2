"""An archive as a list of safe members and a stream of bytes each; no name in it is ever used to write a file."""

from collections.abc import Collection, Generator
from dataclasses import dataclass
from typing import Protocol

from app.domain.errors import DatasetRejected

_REPACK = "Pack the class folders as zip, tar or tar.gz."


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside an archive."""

    index: int
    """Place in the archive's own order."""
    path: str
    """Safe path in Unicode form NFC, see :func:`app.ingest.member_path.safe_path`."""
    spelling: str
    """The same path in the archive's own Unicode form."""
    name_guessed: bool
    size: int
    """Declared uncompressed bytes."""


class MemberStream(Protocol):
    """The uncompressed bytes of one member."""

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes, empty at the end.

        Raises:
            MemberDamaged: this member cannot be read; the others can.
            DatasetRejected: ``archive_truncated``, ``archive_corrupt``, ``archive_bomb``: nothing more can be read.
        """
        ...


class Archive(Protocol):
    """A listed archive. Everything in ``members`` has a safe path and is a regular file."""

    members: list[Member]

    def read(self, wanted: Collection[int]) -> Generator[tuple[Member, MemberStream], None, None]:
        """Yield the members whose index is wanted, in the archive's order; a stream lives until the next one."""
        ...


class MemberDamaged(Exception):
    """One member's bytes do not match its checksum, or cannot be inflated."""


def empty_archive() -> DatasetRejected:
    """Return the rejection of an archive without a single file."""
    return DatasetRejected("archive_empty", "The archive holds no file.", hint=_REPACK)


def unsupported_archive(what: str | None) -> DatasetRejected:
    """Return the rejection of an upload that is no zip, tar or tar.gz; ``what`` names it where it is known."""
    said = f"The upload is {what}" if what else "The upload is of an unknown kind"
    return DatasetRejected("unsupported_archive", f"{said}, not a zip, tar or tar.gz archive.", hint=_REPACK)


def truncated_archive(detail: str) -> DatasetRejected:
    """Return the rejection of an archive that ends too early."""
    return DatasetRejected(
        "archive_truncated",
        f"The archive ends before its end: {detail}.",
        hint="Compare the file's size with the original's and upload it again.",
    )


def corrupt_archive(detail: str) -> DatasetRejected:
    """Return the rejection of an archive whose structure is broken."""
    return DatasetRejected("archive_corrupt", f"The archive is damaged: {detail}.", hint="Pack it again and upload it.")
