"""Where output goes: results to standard output, progress and errors to standard error."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel
from rich.console import Console, RenderableType
from rich.text import Text

from app.client.errors import Failure
from app.domain.errors import ForetuneError

Item = TypeVar("Item")

_UNBROKEN = 10_000  # lists in a pipe: one line each, for grep
_PIPE_WIDTH = 100  # into a file or a pipe, lines are not broken at a terminal's 80 columns


class Terminal:
    """The two streams of one command."""

    def __init__(self, *, as_json: bool = False) -> None:
        """With ``as_json``, standard output carries JSON only and progress is not shown."""
        self.as_json = as_json
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    def show(self, what: RenderableType) -> None:
        """Print a result."""
        self.out.print(what)

    def note(self, text: str, style: str = "dim") -> None:
        """Print something beside the result, unless a program is reading."""
        if not self.as_json:
            self.err.print(Text(printable(text), style=style), soft_wrap=True)

    def answer(self, data: Any, otherwise: RenderableType) -> None:
        """Print the result of a command: ``data`` as JSON if that was asked for, else for people."""
        if self.as_json:
            self.json(data)
        else:
            self.show(Text(printable(otherwise)) if isinstance(otherwise, str) else otherwise)

    def list(self, data: Sequence[Item], columns: Sequence[str], row: Callable[[Item], Sequence[object]]) -> None:
        """Print many things: as JSON if that was asked for, else one a line."""
        from app.cli.tables import listing

        self.keep_lines_whole()
        self.answer(data, listing(columns, map(row, data)))

    def keep_lines_whole(self) -> None:
        """Break no line of what follows, unless a person's terminal would."""
        if not self.out.is_terminal:
            self.out.width = _UNBROKEN

    def json(self, data: Any) -> None:
        """Print JSON."""
        sys.stdout.write(json.dumps(jsonable(data), indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def jsonable(data: Any) -> Any:
    """Return what JSON can hold of the client's objects."""
    if isinstance(data, BaseModel):
        return data.model_dump(mode="json")
    if isinstance(data, dict):
        return {name: jsonable(value) for name, value in data.items()}
    if isinstance(data, Iterable) and not isinstance(data, str):
        return [jsonable(item) for item in data]
    return data


def printable(text: str) -> str:
    """Return text without control characters, which in a file's name could move the cursor or worse."""
    return "".join(character if character.isprintable() or character == "\n" else "�" for character in text)


def tell_failure(error: Exception, *, as_json: bool) -> bool:
    """Tell an error on standard error; False for one that nobody foresaw."""
    if isinstance(error, OSError):
        error = Failure("file_not_accessible", f"{error}.", hint="Check the path, and who may read and write there.")
    if not isinstance(error, Failure | ForetuneError):
        return False
    if as_json:
        told = {"code": error.code, "message": error.message, "param": error.param, "hint": error.hint}
        sys.stderr.write(json.dumps({"error": told}, ensure_ascii=False) + "\n")
        return True
    console = _console(stderr=True)
    lines = Text.assemble(("Error: ", "bold red"), printable(error.message), (f" ({error.code})", "dim"))
    if error.hint:
        lines.append("\nHint: ", style="bold").append(printable(error.hint))
    console.print(lines, soft_wrap=True)
    return True


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)
