"""Which kind of file the first bytes belong to; a file's extension is believed only where no byte can tell."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from PIL import features

HEAD_BYTES = 4096

_PREFIXES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)
_UNSUPPORTED_PREFIXES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"%!PS", "PostScript"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"IIU\x00", "camera raw"),
    (b"IIRO", "camera raw"),
)
_ARCHIVE_PREFIXES = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!", b"BZh", b"\xfd7zXZ")
_NETPBM = re.compile(rb"P[1-7]\s+[#\dW]")
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
# Camera raw files are TIFF containers whose first picture is a thumbnail: nothing but the name tells them apart.
_RAW_SUFFIXES = {".dng", ".nef", ".cr2", ".arw", ".pef", ".srw", ".3fr"}
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    b"crx ": "camera raw",
}


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file is by its content."""

    family: Literal["image", "unsupported_image", "archive", "other"]
    name: str = ""
    """Pillow's name of the format for an image, a plain one for an unsupported image."""


def sniff(head: bytes, path: str) -> FileKind:
    """Return the kind of the file that starts with ``head`` (up to ``HEAD_BYTES``)."""
    suffix = PurePosixPath(path).suffix.casefold()
    for prefix, name in _PREFIXES:
        if head.startswith(prefix):
            if name == "TIFF" and (suffix in _RAW_SUFFIXES or head[8:10] == b"CR"):
                return FileKind("unsupported_image", "camera raw")
            return FileKind("image", name)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return FileKind("image", "WEBP")
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return FileKind("image", "BMP")
    if head[4:8] == b"ftyp":
        return _sniff_container(head)
    if head.startswith(_ARCHIVE_PREFIXES) or head[257:262] == b"ustar":
        return FileKind("archive")
    for prefix, name in _UNSUPPORTED_PREFIXES:
        if head.startswith(prefix):
            return FileKind("unsupported_image", name)
    if _NETPBM.match(head):
        return FileKind("unsupported_image", "netpbm")
    if head[128:132] == b"DICM":
        return FileKind("unsupported_image", "DICOM")
    if head.lstrip().startswith((b"<svg", b"<?xml", b"<!--")) and b"<svg" in head:
        return FileKind("unsupported_image", "SVG")
    return FileKind("other")


def _sniff_container(head: bytes) -> FileKind:
    """Tell the image kinds of the ISO base media container by its brands: the major one, then the compatible ones."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, end - 3, 4))]
    names = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
    if "AVIF" in names:
        return FileKind("image" if features.check("avif") else "unsupported_image", "AVIF")
    return FileKind("unsupported_image", names[0]) if names else FileKind("other")
