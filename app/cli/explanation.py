"""``foretune explain``: why a model stands where it stands in a ranking."""

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import AsJson, SelectionId
from app.cli.session import session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from app.client.resources import Explanation

_CONFUSIONS_SHOWN = 8


def explain(
    selection: SelectionId,
    model: Annotated[str, typer.Option(help="Id or name of a ranked model.")],
    against: Annotated[str | None, typer.Option(help="Model to compare with; by default the next in rank.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the classes a model helps, the pairs it confuses, and where it and another model differ."""
    with session(as_json=as_json) as (terminal, client):
        found = client.selections.explain(selection, model, against=against)
        terminal.answer(found, _page(found))


def _page(found: "Explanation") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from app.cli.tables import listing
    from app.cli.terminal import printable

    rival = found.against.name if found.against else None
    columns = ["class", "images", found.model.name, *([rival] if rival else []), found.correlation["score"]]
    classes = listing(
        columns,
        [
            (
                one.name,
                one.held_out,
                _share(one.accuracy) + (" *" if one.beyond_chance else ""),
                *([_share(one.against)] if rival else []),
                f"{one.contribution:+.3f}",
            )
            for one in found.classes
        ],
    )
    parts: list[RenderableType] = [Text(printable(found.summary)), Text(), classes]
    if any(one.beyond_chance for one in found.classes):
        parts.append(Text("* differs by more than two standard errors", style="dim"))
    if found.confusions:
        shown = found.confusions[:_CONFUSIONS_SHOWN]
        rows = [(pair.name, pair.predicted, pair.images, _share(pair.share)) for pair in shown]
        parts += [Text(), listing(["takes", "for", "images", "of the class"], rows)]
    total = f"{found.correlation['value']:.3f}"
    parts.append(
        Text(
            "\nShares are of held-out images that the linear probe gets right. The last column adds up to the "
            f"label-feature correlation, {total}.",
            style="dim",
        )
    )
    return Group(*parts)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
