"""A service in a process of its own, without a worker, and the command line beside it."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from app.client import Failure, Foretune
from app.storage.database import Database
from tests.fixtures.servers import free_port

ROOT = Path(__file__).parents[2]


def environment(**foretune: str) -> dict[str, str]:
    """Return this process's environment with no FORETUNE_* variables but these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FORETUNE_")}
    return {**kept, "PYTHONPATH": str(ROOT), **{f"FORETUNE_{name.upper()}": value for name, value in foretune.items()}}


def start(*arguments: str, cwd: Path = ROOT, **foretune: str) -> "subprocess.Popen[str]":
    """Start ``foretune`` with these arguments."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "app.cli", *arguments],
        env=environment(**foretune),
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@dataclass(frozen=True)
class Done:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return standard output as JSON."""
        return json.loads(self.out)


def run(*arguments: str, **foretune: str) -> Done:
    """Run ``foretune`` and return what it said."""
    process = start(*arguments, **foretune)
    out, err = process.communicate(timeout=120)
    return Done(process.returncode, out, err)


@dataclass(frozen=True)
class Served:
    """A running service and its database."""

    url: str
    home: Path
    database: Database

    @property
    def key(self) -> str:
        """Return the admin key."""
        return (self.home / "admin.key").read_text().strip()

    def run(self, *arguments: str) -> Done:
        """Run a command against this service, in this process: starting Python anew takes longer than the command."""
        out, err = io.StringIO(), io.StringIO()
        variables, argv = dict(os.environ), sys.argv
        os.environ.clear()
        os.environ.update(environment(home=str(self.home), url=self.url))
        sys.argv = ["foretune", *arguments]
        try:
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
                main()
        finally:
            os.environ.clear()
            os.environ.update(variables)
            sys.argv = argv
        return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Yield a service that ``foretune serve --api-only`` runs, with an empty zoo."""
    home = tmp_path_factory.mktemp("served")
    manifest = home / "zoo.yaml"
    manifest.write_text("models: []\n")
    port = str(free_port())
    settings = {"home": str(home), "zoo_manifest": str(manifest), "webhook_private_hosts": "127.0.0.1"}
    process = start("serve", "--api-only", "--json", "--port", port, **settings)
    assert process.stdout is not None
    announced = ""
    while not announced.endswith("}\n"):
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        announced += line
    told = json.loads(announced)
    assert told["worker_pid"] is None
    database = Database(f"sqlite:///{home / 'foretune.db'}")
    try:
        yield Served(told["url"], home, database)
    finally:
        database.close()
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.fixture
def client(served: Served) -> Iterator[Foretune]:
    """Yield a client with the admin key."""
    with Foretune(served.url, served.key) as foretune:
        yield foretune


def unbroken(told: str) -> str:
    """Return what was told without the frame that typer draws around wrong usage."""
    return " ".join(told.replace("│", " ").split())


def processes_of(home: Path) -> dict[int, str]:
    """Return the processes that were started with this FORETUNE_HOME, orphans too, and their command lines."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
            if f"FORETUNE_HOME={home}".encode() in variables:
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def wait_until_ready(url: str) -> None:
    """Wait until a service with its worker can work."""

    def is_ready() -> bool:
        try:
            return foretune.health().status == "ready"
        except Failure:
            return False

    with Foretune(url, "none") as foretune:
        wait_until(is_ready)
