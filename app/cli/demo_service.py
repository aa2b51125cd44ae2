"""A service of one's own: started in a folder, on a free port of this machine, and stopped whatever happens."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from app.client import Failure, Foretune

_START_SECONDS = 120.0  # a cold disk takes its time to read torch
_STOP_SECONDS = 40.0
_LOG_LINES = 5
# What would make it another service than the embedded one of this home.
_FOREIGN = ("DATABASE_URL", "OBJECTS_URL", "BROKER_URL", "SECRET", "URL", "KEY", "HOST", "PORT", "HOME", "WORKER_SLOT")


@dataclass(frozen=True)
class OwnService:
    """A running service and its admin key."""

    url: str
    key: str


@contextmanager
def running_service(home: Path) -> Iterator[OwnService]:
    """Run ``foretune serve`` on ``home`` until the block ends; Ctrl-C and SIGTERM end it too.

    Raises:
        Failure: ``service_did_not_start``. A failure of the block names the log.
    """
    home.mkdir(parents=True, exist_ok=True)
    log = home / "service.log"
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with _signals_as_interrupts(), log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  (this program itself)
            [sys.executable, "-P", "-m", "app.cli", "serve", "--host", "127.0.0.1", "--port", str(port)],
            env=_environment(home),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops its service in good order
        )
        try:
            _wait_until_ready(process, url, log)
            yield OwnService(url, (home / "admin.key").read_text().strip())
        except Failure as failure:
            failure.hint = f"{failure.hint or ''} The service's log: {log}".strip()
            raise
        finally:
            _stop(process)


def command_to_keep(home: Path) -> str:
    """Return the shell command that runs a service on ``home`` until it is stopped."""
    program = Path(sys.executable).parent / "foretune"
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    return f"FORETUNE_HOME={shlex.quote(str(home))} {shlex.quote(str(program))} serve"


def _environment(home: Path) -> dict[str, str]:
    foreign = {f"FORETUNE_{name}" for name in _FOREIGN}
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    return {**kept, "FORETUNE_HOME": str(home), "PYTHONUNBUFFERED": "1"}


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    with Foretune(url, "none") as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise _did_not_start(f"ended with status {process.returncode}", log)
            if _answers(client):
                return
            time.sleep(0.2)
    raise _did_not_start(f"did not answer within {_START_SECONDS:g} seconds", log)


def _answers(client: Foretune) -> bool:
    try:
        return client.health().status == "ready"
    except Failure:
        return False


def _did_not_start(what: str, log: Path) -> Failure:
    last = log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:]
    return Failure("service_did_not_start", "\n  ".join([f"The service {what}. It said last:", *last]))


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # its worker notices and ends
        process.wait()


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind like Ctrl-C does."""

    def interrupt(_signal: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
