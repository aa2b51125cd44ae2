"""``foretune serve``, ``worker``, ``migrate``, ``status``: run the service."""

import errno
import os
import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import AsJson
from app.cli.session import session

if TYPE_CHECKING:
    from app.cli.terminal import Terminal
    from app.config import Settings

_DRAIN_SECONDS = 2  # for open event streams and long polls; their clients come back by themselves


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; FORETUNE_HOST, else 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="FORETUNE_PORT, else 8000.")] = None,
    api_only: Annotated[bool, typer.Option("--api-only", help="Start no worker; `foretune worker` does.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start the service: the REST interface, and a worker beside it. Ctrl-C stops both."""
    from app.cli.terminal import Terminal
    from app.cli.worker_child import ending_on_signals, running_workers
    from app.cli.worker_slots import only_slot
    from app.client.address import read_settings
    from app.logs import configure_logs

    flags = {"host": host, "port": port}
    settings = read_settings(**{name: value for name, value in flags.items() if value is not None})
    with ExitStack() as running:
        listening = running.enter_context(_listen(settings.host, settings.port))
        ending = running.enter_context(ending_on_signals())
        configure_logs()
        made_key = _prepare(settings)
        slots = [] if api_only else [only_slot(settings)]
        worker_pid = next(iter(running.enter_context(running_workers(settings, slots, ending))), None)
        _announce(Terminal(as_json=as_json), settings, made_key=made_key, worker_pid=worker_pid)
        _run(settings, listening)


def worker(
    gpus: Annotated[
        str | None,
        typer.Option(help="Which GPUs get a worker: all, none, or numbers like 0,2. By default all that there are."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="How many for each GPU, or on the CPU; 1 by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start the workers of this machine, one for each GPU, for a service that runs elsewhere with --api-only.

    Ctrl-C or SIGTERM lets them give back what they are at, which takes seconds; a second one lets them hurry.
    """
    from app.cli.tables import listing
    from app.cli.terminal import Terminal
    from app.cli.worker_child import ending_on_signals, running_workers
    from app.cli.worker_slots import plan_slots
    from app.client.address import read_settings
    from app.logs import configure_logs

    settings = read_settings()
    slots = plan_slots(settings, gpus, workers)
    with ending_on_signals() as ending:
        configure_logs()
        _migrate(settings)
        with running_workers(settings, slots, ending) as pids:
            told = [
                {"worker": slot.name, "pid": pid, "device": slot.device} for slot, pid in zip(slots, pids, strict=True)
            ]
            rows = [list(one.values()) for one in told]
            terminal = Terminal(as_json=as_json)
            terminal.answer({"workers": told}, listing(["worker", "process", "device"], rows))
            terminal.note("Stop with Ctrl-C.")
            threading.Event().wait()


def migrate(as_json: AsJson = False) -> None:
    """Bring the database to the schema of this release, and make the place for objects where there is none."""
    from app.cli.terminal import Terminal
    from app.client.address import read_settings

    database = _migrate(read_settings())
    Terminal(as_json=as_json).answer({"database": database}, f"{database} has the schema of this release.")


def status(as_json: AsJson = False) -> None:
    """Show whether the service can work; exits with 1 when it is down."""
    with session(as_json=as_json) as (terminal, client):
        health = client.health()
        from app.cli.tables import facts

        terminal.answer(health, facts([(client.url, health.status), *health.checks.items()], indent=0))
    if health.status == "down":
        raise typer.Exit(1)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, so that a port in use is told before anything is started."""
    from app.client import Failure

    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        code = "port_in_use" if error.errno == errno.EADDRINUSE else "cannot_listen"
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise Failure(
            code,
            f"The service cannot listen on {host} port {port}: {reason}.",
            param="port" if code == "port_in_use" else "host",
            hint="Stop what runs there, or choose another place: foretune serve --host 127.0.0.1 --port 8001.",
        ) from error


def _prepare(settings: "Settings") -> bool:
    from app.first_start import prepare_home

    return prepare_home(settings)


def _migrate(settings: "Settings") -> str:
    from app.first_start import prepare_stores

    database = prepare_stores(settings)
    database.close()
    return database.url.render_as_string(hide_password=True)


def _announce(terminal: "Terminal", settings: "Settings", *, made_key: bool, worker_pid: int | None) -> None:
    from app.cli.tables import facts

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{settings.port}"
    key_file = str(settings.admin_key_file) if settings.admin_key_file.exists() else None
    told = {
        "url": url,
        "docs": f"{url}/docs",
        "home": str(settings.home),
        "admin_key_file": key_file,
        "worker_pid": worker_pid,
    }
    rows = [
        ("Foretune", url),
        ("interface", told["docs"]),
        ("home", told["home"]),
        ("admin key", f"{key_file or 'made on the first start, elsewhere'}{' (new)' if made_key else ''}"),
        ("worker", f"process {worker_pid}" if worker_pid else "none here: start one with `foretune worker`"),
    ]
    terminal.answer(told, facts(rows, indent=0))
    terminal.note("Stop it with Ctrl-C.")


def _run(settings: "Settings", listening: socket.socket) -> None:
    import uvicorn

    from app.api.main import create_app

    config = uvicorn.Config(
        create_app(settings),
        log_config=None,  # the loggers of uvicorn write as all others do
        log_level="warning",
        access_log=False,  # app.api.observe notes what changes something or fails
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listening])
