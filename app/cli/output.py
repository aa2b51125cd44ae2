"""Whether a result will find its place, asked before the work that it takes rather than after."""

import errno
import os
from pathlib import Path
from tempfile import NamedTemporaryFile

_DRAFT = ".part"


def check_file(path: Path) -> None:
    """Find out whether a file can be written, by writing one beside it.

    Raises:
        OSError: it cannot: its folder is missing or closed to us, or it is a folder itself.
    """
    if path.is_dir():
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    _try(path.parent, path.name, told=path)


def check_folder(path: Path) -> None:
    """Find out whether files can be written into a folder, or into one that is still to be made.

    Raises:
        OSError: they cannot.
    """
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    _try(existing, "", told=path)


def _try(folder: Path, name: str, *, told: Path) -> None:
    """Write a file for a moment; its name is as long as that of a download that is not complete yet."""
    try:
        with NamedTemporaryFile(dir=folder, prefix=f".{name}.", suffix=_DRAFT):
            pass
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or errno.EIO), str(told)) from error
