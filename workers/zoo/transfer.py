"""Fetching from elsewhere: never for longer than it may take, and given up at once when the work is to end.

What fetches is mostly a library's client, and these have no common way to be interrupted; some reads never return. It
runs in a thread of its own, therefore, and the thread of the job watches: how much has arrived, how long that took, and
whether the job is still wanted. A thread that was given up ends with its next block, or when its connection is closed
under it; one whose source never answers again is left behind, without its files.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from app.config import Settings
from app.domain.errors import ModelRejected
from app.domain.interruption import Interrupted
from workers.zoo.disk_room import require_room

log = structlog.get_logger()

LOOK_SECONDS = 0.25
"""How often the watching thread looks."""

_LEAVE_SECONDS = 1.0
"""How long a thread that was given up may take to end, before its files are deleted all the same."""

_Fetched = TypeVar("_Fetched")


class TransferGivenUp(Exception):
    """Nobody waits for the file any more; ends the thread that fetches it."""


class Transfer:
    """One fetch, as those see it who do it.

    Attributes:
        directory: where the file is to come, empty at first and nobody else's.
    """

    def __init__(self, directory: Path) -> None:
        """Begin with nothing."""
        self.directory = directory
        self._given_up = threading.Event()
        self._ends: list[Callable[[], object]] = []

    def go_on(self) -> None:
        """Return if the file is still wanted; asked between blocks.

        Raises:
            TransferGivenUp: it is not.
        """
        if self._given_up.is_set():
            raise TransferGivenUp

    def pause(self, seconds: float) -> None:
        """Wait, as long as the file is still wanted.

        Raises:
            TransferGivenUp: it is not.
        """
        self._given_up.wait(seconds)
        self.go_on()

    def write(self, blocks: Iterable[bytes], path: Path, size: int | None) -> None:
        """Write a file block by block, if there is room for it and for its rewritten copy.

        Args:
            blocks: its content.
            path: of the file.
            size: bytes that are to come, None where the source does not say.

        Raises:
            ModelRejected: ``no_room_on_disk``.
            TransferGivenUp: the file is not wanted any more.
            OSError: the disk is full, or the source failed.
        """
        require_room(self.directory, 2 * (size or 0))
        with path.open("wb") as file:
            for block in blocks:
                self.go_on()
                file.write(block)

    @contextmanager
    def ended_by(self, end: Callable[[], object]) -> Iterator[None]:
        """Have ``end``, which must not wait, called if the transfer is given up meanwhile: it ends what fetches."""
        self._ends.append(end)
        if self._given_up.is_set():  # before it could be told
            end()
        try:
            yield
        finally:
            self._ends.remove(end)

    def give_up(self) -> None:
        """Tell whoever fetches that nobody waits any more."""
        self._given_up.set()
        for end in list(self._ends):
            end()

    def arrived(self) -> int:
        """Return the bytes that lie in the directory."""
        total = 0
        for folder, _, names in os.walk(self.directory):
            for name in names:
                with suppress(FileNotFoundError):  # renamed or removed meanwhile
                    total += Path(folder, name).lstat().st_size
        return total


@dataclass(frozen=True)
class Limits:
    """How long a fetch may take.

    Attributes:
        seconds: at most, whatever has come.
        bytes_per_second: that must come in the mean, once ``patience_seconds`` are over.
        patience_seconds: that do not count in that mean: for connecting, and for trying again.
    """

    seconds: float = 4 * 3600
    bytes_per_second: float = 100_000
    patience_seconds: float = 120


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Supervision:
    """What watches over fetches: their limits, and ``should_stop``, which tells that the job is to end."""

    limits: Limits = Limits()
    should_stop: Callable[[], bool] = _never

    @classmethod
    def of(cls, settings: Settings, should_stop: Callable[[], bool] = _never) -> "Supervision":
        """Return the supervision that the settings ask for."""
        limits = Limits(settings.fetch_seconds, settings.fetch_bytes_per_second, settings.fetch_patience_seconds)
        return cls(limits, should_stop)

    def run(self, fetch: Callable[[Transfer], _Fetched], directory: Path) -> _Fetched:
        """Return what ``fetch`` returns, or raise what it raises.

        Raises:
            ModelRejected: ``source_too_slow``.
            Interrupted: ``should_stop`` said so; what ``should_stop`` raises goes through, too.
        """
        transfer, outcome = Transfer(directory), Future[_Fetched]()
        threading.Thread(target=_fulfil, args=(outcome, fetch, transfer), name="fetch", daemon=True).start()
        started = time.monotonic()
        try:
            while not wait([outcome], LOOK_SECONDS).done:
                if self.should_stop():
                    raise Interrupted("Stopped while fetching weights.")
                self._refuse_slowness(transfer, time.monotonic() - started)
        except BaseException:
            transfer.give_up()
            if not wait([outcome], _LEAVE_SECONDS).done:
                log.warning("fetch.left_behind", folder=directory.name)
            raise
        return outcome.result()

    def _refuse_slowness(self, transfer: Transfer, elapsed: float) -> None:
        limits, counted = self.limits, elapsed - self.limits.patience_seconds
        if elapsed > limits.seconds:
            raise _too_slow(transfer, elapsed, f"more than {limits.seconds:.0f} s are not waited for")
        if counted > 0 and transfer.arrived() < limits.bytes_per_second * counted:
            raise _too_slow(transfer, elapsed, f"less than {limits.bytes_per_second:.0f} bytes a second came")


NEVER_STOPPED = Supervision()
"""The usual limits, for a fetch that nothing but its source ends."""


def _fulfil(outcome: "Future[_Fetched]", fetch: Callable[[Transfer], _Fetched], transfer: Transfer) -> None:
    try:
        outcome.set_result(fetch(transfer))
    except BaseException as error:  # noqa: BLE001 - it is raised where the outcome is waited for
        outcome.set_exception(error)


def _too_slow(transfer: Transfer, elapsed: float, why: str) -> ModelRejected:
    return ModelRejected(
        "source_too_slow",
        f"the source brought {transfer.arrived() / 1e6:.1f} MB in {elapsed:.0f} s: {why}",
        param="source",
        hint="Check again later, or take a mirror; FORETUNE_FETCH_SECONDS and its neighbours set the limits.",
    )
