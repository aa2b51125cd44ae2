"""``foretune admin``: what waits and who works, over all tenants."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import AsJson
from app.cli.session import session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from app.cli.terminal import Terminal

commands = typer.Typer(help="See what waits and who works. Takes an admin's key.", no_args_is_help=True)

_EVERY_SECONDS = 1.0
_INTERRUPTED = 130

Watch = Annotated[bool, typer.Option("--watch", help="Go on showing it, until Ctrl-C; with --json, each change.")]


@commands.command()
def queue(watch: Watch = False, as_json: AsJson = False) -> None:
    """Show how much waits, for how long and whose it is, and what is being worked on."""
    from app.cli.admin_tables import queue_tables

    with session(as_json=as_json) as (terminal, client):
        _show(terminal, client.operations.queue, queue_tables, watch=watch)


@commands.command()
def workers(watch: Watch = False, as_json: AsJson = False) -> None:
    """Show the worker processes, and what each of them is at."""
    from app.cli.admin_tables import workers_table

    with session(as_json=as_json) as (terminal, client):
        _show(terminal, client.operations.workers, workers_table, watch=watch)


def _show(
    terminal: "Terminal", read: Callable[[], Any], draw: Callable[[Any], "RenderableType"], *, watch: bool
) -> None:
    terminal.keep_lines_whole()
    if not watch:
        seen = read()
        terminal.answer(seen, draw(seen))
        return
    try:
        with _screen(terminal, draw) as show:
            before = None
            while True:
                seen = read()
                if seen != before:
                    show(seen)
                before = seen
                time.sleep(_EVERY_SECONDS)
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None


@contextmanager
def _screen(terminal: "Terminal", draw: Callable[[Any], "RenderableType"]) -> Iterator[Callable[[Any], None]]:
    """Yield what shows something in place of what was shown before; into a pipe, below it."""
    import json

    from rich.live import Live

    from app.cli.terminal import jsonable

    if terminal.as_json:
        yield lambda seen: typer.echo(json.dumps(jsonable(seen), ensure_ascii=False))
    elif terminal.out.is_terminal:
        with Live(console=terminal.out, auto_refresh=False) as live:
            yield lambda seen: live.update(draw(seen), refresh=True)
    else:
        yield lambda seen: terminal.show(draw(seen))
