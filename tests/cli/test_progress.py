import io

from rich.console import Console

from app.cli.progress import Bar
from app.cli.terminal import Terminal


def shown(*, on_a_terminal: bool) -> str:
    terminal = Terminal()
    terminal.err = Console(file=io.StringIO(), width=100, force_terminal=on_a_terminal, markup=False, highlight=False)
    with Bar(terminal, "evaluating") as bar:
        bar.update(0.25, 1.0, "one of [four]\x1b[2J", milestone="1 of 4")
        bar.update(0.3, 1.0, "two of [four]", milestone="1 of 4")
        bar.update(0.5, 1.0, "two of [four]", milestone="2 of 4")
    return terminal.err.file.getvalue()


def test_elsewhere_than_on_a_terminal_each_milestone_is_a_line() -> None:
    assert shown(on_a_terminal=False) == "evaluating: 1 of 4\nevaluating: 2 of 4\n"


def test_on_a_terminal_a_bar_moves_and_goes_away() -> None:
    drawn = shown(on_a_terminal=True)
    assert " 50%" in drawn
    assert "two of [four]" in drawn
    assert "[progress" not in drawn
    assert "1 of 4" not in drawn
    assert drawn.endswith("\x1b[2K")
