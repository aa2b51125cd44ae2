"""A folder of class folders becomes one zip file to upload. Images are stored, for they are compressed already."""

import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from app.client.errors import Failure

_MOMENT = (1980, 1, 1, 0, 0, 0)  # of every entry: the same files give the same bytes, hence the same data set
_COPY_BYTES = 1 << 20


@contextmanager
def packed_folder(folder: Path, on_progress: Callable[[int, int], None]) -> Iterator[IO[bytes]]:
    """Yield a temporary zip file with every file below ``folder`` but the hidden ones.

    Args:
        folder: links in it are followed.
        on_progress: called with the bytes packed and the bytes there are.

    Raises:
        Failure: ``empty_folder``.
    """
    paths = sorted(_files(folder))
    if not paths:
        raise Failure(
            "empty_folder",
            f"{folder} holds no file.",
            param=str(folder),
            hint="Name the folder that holds one folder for each class.",
        )
    total = sum(path.stat().st_size for path in paths)
    packed = 0
    with tempfile.TemporaryFile(prefix="foretune-", suffix=".zip") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for path in paths:
                entry = zipfile.ZipInfo(_entry_name(path.relative_to(folder)), _MOMENT)
                entry.external_attr = 0o644 << 16
                with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                    while chunk := source.read(_COPY_BYTES):
                        target.write(chunk)
                        packed += len(chunk)
                        on_progress(packed, total)
        yield file


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder; a link that leads back to a folder seen before ends there."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(parent)
        folders[:] = [] if place in seen else [name for name in folders if not name.startswith(".")]
        if place not in seen:
            yield from (path for name in names if (path := Path(parent, name)).is_file() and not name.startswith("."))
        seen.add(place)


def _entry_name(path: Path) -> str:
    """Return a name that a zip can hold; bytes that are not UTF-8 are written out."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
