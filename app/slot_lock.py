"""Which worker slots of a home are taken on this machine: each is a file that who keeps the worker has locked."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class SlotTaken(Exception):
    """Another process keeps the worker of this slot; the message is its id."""


@contextmanager
def held_slot(home: Path, slot: str) -> Iterator[None]:
    """Hold a slot until the block ends: a second worker of that name would take the first one's jobs.

    Raises:
        SlotTaken: somebody else holds it.
    """
    home.mkdir(parents=True, exist_ok=True)
    with _file(home, slot).open("a+") as file:
        if not _locked(file):
            file.seek(0)
            raise SlotTaken(file.read().strip())
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def slots_in_use(home: Path) -> list[str]:
    """Return the slots that somebody holds."""
    taken = []
    for path in sorted(home.glob(_file(home, "*").name)):
        with path.open("a+") as file:
            if not _locked(file):
                taken.append(path.stem.removeprefix(_file(home, "").stem))
    return taken


def _file(home: Path, slot: str) -> Path:
    return home / f"worker-{socket.gethostname()}-{slot}.lock"


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
