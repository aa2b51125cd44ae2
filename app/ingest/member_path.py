"""The names inside an archive: raw bytes to text, text to a path that is safe and the same on every system."""

import re
import struct
import unicodedata
import zlib

from app.domain.errors import DatasetRejected

MAX_PATH_CHARACTERS = 4096

_UNICODE_PATH = 0x7075  # Info-ZIP's extra field with the name in UTF-8, APPNOTE 4.6.9
_DRIVE = re.compile(r"[A-Za-z]:")


def decoded_name(raw: bytes, extra: bytes = b"") -> tuple[str, bool]:
    """Return the text of a member name that declares no encoding, and whether that text is a guess.

    Tried in turn: Info-ZIP's Unicode path field, UTF-8 (what macOS and Linux write without saying so), and code page
    437, the format's own default, which reads any bytes and so may read them wrong.
    """
    declared = _unicode_path(raw, extra)
    if declared is not None:
        return declared, False
    try:
        return raw.decode("utf-8"), False
    except UnicodeDecodeError:
        return raw.decode("cp437"), True


def _unicode_path(raw: bytes, extra: bytes) -> str | None:
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        body, extra = extra[4 : 4 + size], extra[4 + size :]
        # A tool that renames an entry without knowing this field leaves a stale name behind: the checksum tells.
        if kind == _UNICODE_PATH and len(body) > 5 and struct.unpack_from("<BI", body) == (1, zlib.crc32(raw)):
            try:
                return body[5:].decode("utf-8")
            except UnicodeDecodeError:
                return None
    return None


def safe_path(name: str) -> tuple[str, str]:
    """Return the member's path, and the same path as it is spelled: both relative, with ``/``, without ``.`` parts.

    The path is in Unicode form NFC, so that macOS's decomposed names equal everybody else's; the spelling keeps the
    archive's form. Both are empty for the root itself.

    Raises:
        DatasetRejected: ``archive_unsafe`` for an absolute path, a drive letter, ``..``, a NUL or an endless name.
    """
    # Composing first: some characters become ASCII letters under NFC (the Kelvin sign is a K), and so a drive.
    composed = unicodedata.normalize("NFC", name).replace("\\", "/")
    path = _without_dots(composed)
    if composed.startswith("/") or _DRIVE.match(path):
        raise unsafe(name, "an absolute path")
    if ".." in path.split("/"):
        raise unsafe(name, "a path that leaves its folder")
    if "\0" in path or len(path) > MAX_PATH_CHARACTERS:
        raise unsafe(name, "a name that no file can have")
    spelling = _without_dots(name.replace("\\", "/"))
    return path, path if spelling == path else spelling


def _without_dots(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def unsafe(name: str, what: str) -> DatasetRejected:
    """Return the rejection of an archive with an entry that must not be unpacked."""
    shown = name if len(name) <= 200 else name[:200] + "..."
    printable = shown.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return DatasetRejected(
        "archive_unsafe",
        f"The archive holds {what}: {printable!r}. Nothing was unpacked.",
        param=printable,
        hint="Pack the class folders again with plain relative paths, without links or special files.",
    )
