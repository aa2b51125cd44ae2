"""Scores of one feature file, as a table."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.tables import listing
from app.cli.terminal import printable
from app.domain.errors import EvaluationFailed
from app.scoring.contract import Score
from app.scoring.measurement import measure_score
from app.scoring.panel import Panel


def measured(score: Score, panel: Panel) -> dict[str, Any]:
    """Return a score's value, or why it has none, ready for JSON."""
    row: dict[str, Any] = {"score": score.name, "value": None, "stderr": None, "null_value": None}
    row |= {"warnings": [], "error": None}
    try:
        result = measure_score(score, panel)
    except EvaluationFailed as error:
        return row | {"error": error.as_dict()}
    return row | {
        "value": result.value,
        "stderr": result.stderr,
        "null_value": result.null_value,
        "warnings": list(result.warnings),
    }


def table(rows: Sequence[dict[str, Any]]) -> RenderableType:
    """Return what was measured, then why the others were not."""
    measured_rows = [row for row in rows if not row["error"]]
    parts: list[RenderableType] = []
    if measured_rows:
        parts.append(
            listing(
                ("score", "value", "± stderr", "shuffled labels", "warnings"),
                [
                    (
                        row["score"],
                        *map(_number, (row["value"], row["stderr"], row["null_value"])),
                        ", ".join(row["warnings"]),
                    )
                    for row in measured_rows
                ],
            )
        )
    for row in rows:
        if row["error"]:
            error = row["error"]
            parts.append(
                Text.assemble(
                    (row["score"], "bold"),
                    f" not computed: {printable(error['message'])} ({error['code']}) ",
                    (printable(error["hint"] or ""), "dim"),
                )
            )
    return Group(*parts)


def _number(number: float | None) -> str:
    return "" if number is None else f"{number:.6g}"
