"""Workers below this process: for each a supervisor in a session of its own, which keeps the worker alive."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

import app
from app.cli.worker_slots import Slot
from app.client.errors import Failure
from app.config import Settings
from app.slot_lock import SlotTaken, held_slot

log = structlog.get_logger()

_LOOK_EVERY_SECONDS = 0.5
_PAUSE_SECONDS = 2.0
STOP_SECONDS = 30.0


class Ending:
    """Turns the first SIGTERM or SIGINT into ``SystemExit(0)``, so that what was started is stopped; counts them."""

    def __init__(self) -> None:
        self.signals = 0

    @property
    def is_urgent(self) -> bool:
        """Whether somebody asked twice."""
        return self.signals > 1

    def __call__(self, _signal: int, _frame: object) -> None:
        """Handle a signal."""
        self.signals += 1
        if self.signals == 1:
            raise SystemExit(0)


@contextmanager
def ending_on_signals() -> Iterator[Ending]:
    """Let SIGTERM and SIGINT end the block by ``SystemExit(0)``."""
    ending = Ending()
    before = {number: signal.signal(number, ending) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def running_workers(settings: Settings, slots: Sequence[Slot], ending: Ending) -> Iterator[list[int]]:
    """Keep supervised workers running until the block ends; yield the supervisors' process ids.

    When the block ends all of them give their jobs back at the same time, and at once when ``ending`` is urgent. What
    ends one of them is nothing to the others.

    Raises:
        Failure: ``home_in_use``, when another process keeps the worker of this home and one of these slots.
        SystemExit: with status 1, a worker did not end in good order: its job waits until its lease runs out.
    """
    with ExitStack() as held:
        for slot in slots:
            held.enter_context(_held(settings, slot.name))
        children: list[_WorkerChild] = []
        try:
            children += [_WorkerChild(settings, slot) for slot in slots]
            yield [child.pid for child in children]
        finally:
            if not _stop(children, ending):
                raise SystemExit(1)


def _stop(children: "Sequence[_WorkerChild]", ending: Ending) -> bool:
    """End all children, and return whether every one ended in good order."""
    for child in children:
        child.ask_to_stop()
    until, hurried = time.monotonic() + STOP_SECONDS, False
    while any(child.is_alive for child in children) and time.monotonic() < until:
        if ending.is_urgent and not hurried:
            hurried = True
            for child in children:
                child.ask_to_stop()
        time.sleep(0.05)
    ended_well = [child.has_ended_well() for child in children]
    return all(ended_well)


class _WorkerChild:
    """The supervisor process of one worker, started anew should it ever end."""

    def __init__(self, settings: Settings, slot: Slot) -> None:
        self._name = slot.name
        self._environment = _environment(settings, slot)
        self._stopping = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._keep, name=f"worker-{slot.name}", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask_to_stop(self) -> None:
        """Let it end; asked again, let it hurry."""
        self._stopping.set()
        self._thread.join()
        self._process.terminate()

    def has_ended_well(self) -> bool:
        """Return whether it ended in good order; end it if it is still there."""
        if self.is_alive:
            log.warning("worker.killed", slot=self._name, pid=self.pid)
            self._process.kill()  # the worker notices that its supervisor is gone
        # A supervisor that does not handle SIGTERM yet has not started a worker either.
        return self._process.wait() in (0, -signal.SIGTERM)

    def _keep(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_SECONDS):
            if self._process.poll() is not None:
                status = self._process.returncode
                log.error("worker.supervisor_ended", slot=self._name, pid=self.pid, status=status)
                if self._stopping.wait(_PAUSE_SECONDS):
                    return
                self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        # In a session of its own, Ctrl-C reaches this process alone, which then stops its workers in good order.
        return subprocess.Popen(
            [sys.executable, "-m", "workers.supervise"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _environment(settings: Settings, slot: Slot) -> dict[str, str]:
    """Return the worker's environment: the same home, and this project's modules before any of the current folder.

    The current folder may well have an ``app`` or ``workers`` package of its own, and Celery puts it in front of the
    module path unless it is in it already.
    """
    root = str(Path(app.__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([root, *([inherited] if inherited else []), str(Path.cwd())])
    own = {"FORETUNE_HOME": str(settings.home), "FORETUNE_WORKER_SLOT": slot.name, **slot.variables}
    return {**os.environ, **own, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


@contextmanager
def _held(settings: Settings, slot: str) -> Iterator[None]:
    try:
        with held_slot(settings.home, slot):
            yield
    except SlotTaken as holder:
        raise Failure(
            "home_in_use",
            f"Process {holder} keeps the worker {slot!r} of {settings.home}.",
            param="FORETUNE_HOME",
            hint="Stop that one first, choose another FORETUNE_HOME, or name a second worker of this machine by "
            "another FORETUNE_WORKER_SLOT.",
        ) from None
