"""Room on the disk that keeps weights: asked for before a file is fetched, told of when it ends."""

import errno
import shutil
from pathlib import Path

from app.domain.errors import ModelRejected

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def require_room(directory: Path, wanted: int) -> None:
    """Refuse to begin what will not fit.

    Raises:
        ModelRejected: ``no_room_on_disk``.
    """
    free = shutil.disk_usage(directory).free
    if wanted > free:
        raise no_room(directory, f"{wanted / 1e9:.2f} GB are wanted, {free / 1e9:.2f} GB are free")


def is_disk_full(error: BaseException) -> bool:
    """Tell whether a file could not be written for want of room, by the system's number or a program's words for it."""
    number = getattr(error, "errno", None)
    words = str(error)
    if number in _FULL or any(f"(os error {full})" in words or f"[Errno {full}]" in words for full in _FULL):
        return True
    return error.__cause__ is not None and is_disk_full(error.__cause__)


def no_room(directory: Path, reason: str) -> ModelRejected:
    """Return the error of weights that do not fit on the disk."""
    return ModelRejected(
        "no_room_on_disk",
        f"the weights do not fit into {directory}: {reason}",
        hint="Free some room, or set FORETUNE_WEIGHTS_CACHE to a folder on a larger disk.",
    )
