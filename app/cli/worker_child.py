"""The worker beside the service: a supervisor process in a session of its own, which keeps a worker alive."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import structlog

import app
from app.client.errors import Failure
from app.config import Settings

log = structlog.get_logger()

_LOOK_EVERY_SECONDS = 0.5
_PAUSE_SECONDS = 2.0
_STOP_SECONDS = 30.0


@contextmanager
def running_worker(settings: Settings) -> Iterator[int]:
    """Keep a supervised worker running until the block ends; yield the supervisor's process id.

    Raises:
        Failure: ``home_in_use``, when another process keeps the worker of this home and slot.
    """
    with _held_slot(settings):
        child = _WorkerChild(settings)
        try:
            yield child.pid
        finally:
            child.stop()


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGINT end the block by ``SystemExit(0)``, so that what it started is stopped."""

    def end(_signal: int, _frame: object) -> NoReturn:
        raise SystemExit(0)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _WorkerChild:
    """The supervisor process, started anew should it ever end."""

    def __init__(self, settings: Settings) -> None:
        self._environment = _environment(settings)
        self._stopping = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._keep, name="worker-child", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("worker.killed", pid=self.pid)
            self._process.kill()  # the worker notices that its supervisor is gone
            self._process.wait()

    def _keep(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_SECONDS):
            if self._process.poll() is not None:
                log.error("worker.supervisor_ended", pid=self.pid, status=self._process.returncode)
                if self._stopping.wait(_PAUSE_SECONDS):
                    return
                self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        # In a session of its own, Ctrl-C reaches the service alone, which then stops its worker in good order.
        return subprocess.Popen(
            [sys.executable, "-m", "workers.supervise"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _environment(settings: Settings) -> dict[str, str]:
    """Return the worker's environment: the same home, and this project's modules before any of the current folder.

    The current folder may well have an ``app`` or ``workers`` package of its own, and Celery puts it in front of the
    module path unless it is in it already.
    """
    root = str(Path(app.__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([root, *([inherited] if inherited else []), str(Path.cwd())])
    return {**os.environ, "FORETUNE_HOME": str(settings.home), "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


@contextmanager
def _held_slot(settings: Settings) -> Iterator[None]:
    """Hold the worker slot of this machine and home: a second worker of that name would take the first one's jobs."""
    settings.home.mkdir(parents=True, exist_ok=True)
    path = settings.home / f"worker-{socket.gethostname()}-{settings.worker_slot}.lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Failure(
                "home_in_use",
                f"Process {file.read().strip()} keeps the worker {settings.worker_slot!r} of {settings.home}.",
                param="FORETUNE_HOME",
                hint="Stop that one first, choose another FORETUNE_HOME, or name a second worker of this machine by "
                "another FORETUNE_WORKER_SLOT.",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
