"""``foretune scores``: what the scores are, and scores of one's own features, without a service."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import AsJson

if TYPE_CHECKING:
    from rich.console import RenderableType

    from app.cli.terminal import Terminal
    from app.scoring.contract import Score

commands = typer.Typer(help="Explain scores, and compute them on this machine.", no_args_is_help=True)

_GROUPS = {
    "features": "Of the model's features and the labels",
    "gradients": "Of the model's gradients and the labels",
    "head": "Of the classifier the model was pretrained with",
    "source_data": "Of the data the model was pretrained on",
    "prior": "Without labels",
}
_CHANGES = {
    "scale": "scale",
    "offset": "offset",
    "rotation": "rotation",
    "sample_permutation": "order",
    "class_permutation": "class names",
}


@commands.command("list")
def list_scores(as_json: AsJson = False) -> None:
    """List all scores, those of other installed packages too."""
    from rich.console import Group
    from rich.text import Text

    from app.cli.tables import listing
    from app.scoring.extensions import find_installed
    from app.scoring.registry import SCORES

    terminal = _terminal(as_json=as_json)
    found = find_installed(frozenset(SCORES))
    scores = [*SCORES.values(), *found.scores.values()]
    for refused in found.refused:
        terminal.note(f"The score {refused.name!r} of {refused.target} is left out: {refused.reason}.", style="yellow")
    terminal.keep_lines_whole()
    parts: list[RenderableType] = []
    for group, title in _GROUPS.items():
        members = [score for score in scores if score.group == group]
        if members:
            rows = [
                (score.name, score.meaning, ", ".join(score.inputs), ", ".join(_unchanged(score))) for score in members
            ]
            parts += [Text(title, style="bold"), listing(("score", "meaning", "needs", "unchanged by"), rows), Text()]
    terminal.answer([_statement(score) for score in scores], Group(*parts[:-1]))


@commands.command()
def explain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a score.")], as_json: AsJson = False
) -> None:
    """Tell everything that a score states about itself."""
    from rich.console import Group
    from rich.text import Text

    from app.cli.tables import facts
    from app.scoring.registry import find

    score = find(name)
    stated = _statement(score)
    rows = [
        ("meaning", score.meaning),
        ("needs", ", ".join(score.inputs)),
        ("unchanged by", ", ".join(_unchanged(score)) or "nothing"),
        ("cost", score.cost),
        ("source", score.paper),
        ("equation", score.equation),
        ("sign", "turned: in the publication smaller is better" if score.negated else "larger is better"),
        ("random numbers", "from a fixed seed" if score.stochastic else "none"),
        ("function", score.implementation),
    ]
    if score.zoo_relative:
        parts = " + ".join(f"{weight:g} {part}" for part, weight in score.combines)
        rows.append(("combines", f"{parts}, each scaled to 0..1 over the candidates"))
    _terminal(as_json=as_json).answer(stated, Group(Text(score.name, style="bold"), facts(rows)))


@commands.command()
def run(
    features: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.npz | FOLDER",
            help="Arrays features (N x D) and labels (N); if there are any: gradients (P x N x S), "
            "source_probabilities (N x Z), reference_features (N x R), source_means (Z x D) "
            "with source_weights (Z), units (N), parameters, flops, source_accuracy. Or a folder with each array in a "
            "file NAME.npy: features are then read as they are needed, and may be larger than memory.",
        ),
    ],
    score: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this score; may be given several times.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute scores of features in a file: all that its arrays allow, or those named."""
    from app.cli.feature_file import read_panel
    from app.cli.score_table import measured, table
    from app.scoring.measurement import can_measure
    from app.scoring.registry import all_scores, find

    terminal = _terminal(as_json=as_json)
    chosen = [find(name) for name in dict.fromkeys(score)] if score else None
    panel = read_panel(features)
    left_out: list[Score] = []
    if chosen is None:
        chosen = [one for one in all_scores().values() if can_measure(one, panel)]
        left_out = [one for one in all_scores().values() if one not in chosen]
    if terminal.err.is_terminal:
        terminal.note(f"Computing {len(chosen)} scores of {panel.num_images} images.")
    rows = [measured(one, panel) for one in chosen]
    terminal.keep_lines_whole()
    terminal.answer(rows, table(rows))
    if lacking := [one.name for one in left_out if not one.zoo_relative]:
        terminal.note(f"Left out, for want of the arrays they need: {', '.join(lacking)}.")
    if comparing := [one.name for one in left_out if one.zoo_relative]:
        terminal.note(f"Left out, for they compare candidates (app.scoring.compare): {', '.join(comparing)}.")
    if all(row["error"] for row in rows):
        raise typer.Exit(1)


@commands.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE.py", help="A file that defines Score objects and functions.")],
    as_json: AsJson = False,
) -> None:
    """Run one's own scores on made-up data and test what they state about themselves."""
    from rich.text import Text

    from app.cli.terminal import printable
    from app.scoring.conformance import checks
    from app.scoring.own_file import load_scores

    terminal = _terminal(as_json=as_json)
    answers: list[dict[str, Any]] = []
    for score in load_scores(file):
        if not as_json:
            terminal.show(Text(printable(score.name), style="bold"))
        for one in checks(score):
            answers.append({"score": score.name, "check": one.name, "passed": one.passed, "detail": one.detail})
            if not as_json:
                _tell_check(terminal, one.name, one.detail, passed=one.passed)
    failed = sum(not answer["passed"] for answer in answers)
    summary = f"All {len(answers)} checks passed." if not failed else f"{failed} of {len(answers)} checks failed."
    terminal.answer(answers, summary)
    if failed:
        raise typer.Exit(1)


def _terminal(*, as_json: bool) -> "Terminal":
    from app.cli.terminal import Terminal

    return Terminal(as_json=as_json)


def _unchanged(score: "Score") -> list[str]:
    return [said for change, said in _CHANGES.items() if change in score.invariances]


def _statement(score: "Score") -> dict[str, Any]:
    import dataclasses

    stated = dataclasses.asdict(score)
    stated["invariances"] = sorted(score.invariances)
    stated["combines"] = [{"score": name, "weight": weight} for name, weight in score.combines]
    return stated


def _tell_check(terminal: "Terminal", name: str, detail: str, *, passed: bool) -> None:
    from rich.text import Text

    from app.cli.terminal import printable

    mark = ("passed", "green") if passed else ("FAILED", "bold red")
    line = Text.assemble("  ", mark, "  ", printable(name))
    if detail:
        line.append(f": {printable(detail)}")
    terminal.out.print(line, soft_wrap=True)
