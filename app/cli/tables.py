"""Plain tables: a listing of many things, the facts of one thing."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from app.cli.terminal import printable

# columns that may take several lines
_LONG = frozenset({"name", "path", "detail", "pretrained on", "verdict", "meaning", "needs", "unchanged by"})


def listing(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table with a header."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column not in _LONG, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    return table


def facts(rows: Iterable[tuple[str, object]], *, indent: int = 2) -> Table:
    """Return names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(" " * indent + name, _cell(value))
    return table


def _cell(value: object) -> RenderableType:
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M")
    if value is None or isinstance(value, str | int | float):
        return Text("" if value is None else printable(str(value)))
    return value  # type: ignore[return-value]  # something that rich can draw
