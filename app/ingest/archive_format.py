"""Which archive an upload is, told by its first bytes, whatever the file is called."""

import gzip
import tarfile
import zlib
from pathlib import Path

from app.ingest.archive import Archive, corrupt_archive, empty_archive, truncated_archive, unsupported_archive
from app.ingest.limits import Limits
from app.ingest.tar_archive import TarArchive
from app.ingest.zip_archive import ZipArchive

_UNSUPPORTED = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"PK\x07\x08": "a part of a split zip archive",
    b"MZ": "a Windows program",
    b"PAR1": "a Parquet file",
    b"\xff\xd8\xff": "a single JPEG image",
    b"\x89PNG": "a single PNG image",
    b"%PDF": "a PDF document",
}


def open_archive(path: Path, limits: Limits) -> Archive:
    """List the archive at ``path``: a zip, a tar or a gzipped tar by its content, whatever the file is called.

    Raises:
        DatasetRejected: ``unsupported_archive``, ``archive_empty``, ``archive_unsafe``, ``archive_encrypted``,
            ``archive_truncated``, ``archive_corrupt``, ``archive_bomb``.
    """
    with path.open("rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    archive: Archive
    if not head:
        raise empty_archive()
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        archive = ZipArchive(path, limits)
    elif head.startswith(b"\x1f\x8b"):
        if not _starts_tar(_inflated_head(path)):
            raise unsupported_archive("a gzip file that holds no tar archive")
        archive = TarArchive(path, limits, gzipped=True)
    elif _starts_tar(head):
        archive = TarArchive(path, limits, gzipped=False)
    else:
        raise unsupported_archive(next((what for magic, what in _UNSUPPORTED.items() if head.startswith(magic)), None))
    if not archive.members:
        raise empty_archive()
    return archive


def _inflated_head(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(tarfile.BLOCKSIZE)
    except EOFError as error:
        raise truncated_archive("the gzip stream stops inside the first file") from error
    except (OSError, zlib.error) as error:
        raise corrupt_archive(f"the gzip stream cannot be inflated ({error})") from error


def _starts_tar(block: bytes) -> bool:
    if len(block) < tarfile.BLOCKSIZE:
        return block[257:262] == b"ustar"  # a tar cut inside its first header, told as truncated later
    if not any(block):
        return True  # the end-of-archive block: a tar of nothing
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True
