"""Progress on standard error: a bar that moves on a terminal, elsewhere a line whenever something was reached."""

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from app.cli.terminal import Terminal, printable


class Bar:
    """One bar; it vanishes when its block ends, for a result takes its place."""

    def __init__(self, terminal: Terminal, label: str) -> None:
        """Show a bar with a label in front."""
        self._terminal = terminal
        self._label = label
        self._said = ""
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            TaskProgressColumn("{task.percentage:>3.0f}%", style="progress.percentage", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
            console=terminal.err,
            transient=True,
            disable=terminal.as_json or not terminal.err.is_terminal,
        )
        self._task = self._progress.add_task(label, total=None, detail="")

    def __enter__(self) -> Self:
        """Begin to show it."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take it away."""
        self._progress.stop()

    def update(self, done: float, total: float | None, detail: str = "", *, milestone: str = "") -> None:
        """Move the bar.

        Args:
            done: of ``total``.
            total: None as long as it is not known.
            detail: what is being done, shown behind the bar.
            milestone: what was reached; where no bar moves, a line says so when it changes.
        """
        self._progress.update(self._task, completed=done, total=total, detail=printable(detail))
        if self._progress.disable and milestone and milestone != self._said:
            self._said = milestone
            self._terminal.note(f"{self._label}: {milestone}")
