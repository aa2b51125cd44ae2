"""``foretune plan``: how long a selection would take, before it is asked for."""

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.amounts import counted
from app.cli.constraint_options import ModelFilter
from app.cli.forecast import duration
from app.cli.option_group import with_groups
from app.cli.options import AsJson
from app.cli.session import session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from app.client import Plan


@with_groups
def plan(
    images: Annotated[int, typer.Option(help="Of the data set.")],
    models: Annotated[int | None, typer.Option(help="How many, like those of the zoo; by default the zoo's.")] = None,
    workers: Annotated[int | None, typer.Option(help="How many; by default as many as run.")] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Their kind, such as cpu or what the maker calls the GPU; by default that of most."),
    ] = None,
    score: Annotated[list[str] | None, typer.Option(help="As of `select`: those of gradients take longest.")] = None,
    forecast: Annotated[bool, typer.Option("--forecast", help="With a forecast of fine-tuning.")] = False,
    *,
    wanted: ModelFilter,
    as_json: AsJson = False,
) -> None:
    """Foretell how long ranking takes, from what was measured of each model and of past rankings."""
    with session(as_json=as_json) as (terminal, client):
        found = client.plans.make(
            images,
            models=models,
            workers=workers,
            device=device,
            scores=score,
            forecast=forecast,
            zoo=wanted.zoo,
            constraints=wanted.constraints,
        )
        terminal.answer(found, _page(found))


def _page(found: "Plan") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from app.cli.tables import facts
    from app.cli.terminal import printable

    interval = ""
    if found.interval is not None:
        low, high = map(duration, found.interval)
        interval = f"  (80 % of times between {low} and {high})"
    rests_on = counted(found.evaluations, "past evaluation") if found.evaluations else "the speeds of admission alone"
    rows: list[tuple[str, object]] = [
        ("all ranked after", duration(found.seconds) + interval),
        ("first ranked after", duration(found.first_seconds)),
        ("worker time", duration(found.worker_seconds)),
        ("workers", f"{found.workers} ({found.device})"),
        ("rests on", rests_on),
        ("slowest", ", ".join(f"{one.name} {duration(one.seconds)}" for one in found.slowest)),
    ]
    if found.unmeasured:
        rows.append(("of unknown speed", ", ".join(found.unmeasured)))
    title = Text(f"{counted(found.models, 'model')} on {counted(found.images, 'image')}", style="bold")
    warnings = [Text(printable(f"{warning.detail} ({warning.code})"), style="yellow") for warning in found.warnings]
    return Group(title, facts(rows), *warnings)
