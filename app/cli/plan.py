"""``foretune plan``: how long a selection would take, before it is asked for."""

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.constraint_options import (
    Capability,
    Family,
    License,
    MaxGflops,
    MaxMemory,
    MaxParameters,
    PretrainedOn,
    Tag,
    ZooName,
    constraints,
)
from app.cli.forecast import duration
from app.cli.options import AsJson
from app.cli.session import session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from app.client import Plan


def plan(
    images: Annotated[int, typer.Option(help="Of the data set.")],
    models: Annotated[int | None, typer.Option(help="How many, like those of the zoo; by default the zoo's.")] = None,
    workers: Annotated[int | None, typer.Option(help="How many, like those that run; by default these.")] = None,
    score: Annotated[list[str] | None, typer.Option(help="As of `select`: those of gradients take longest.")] = None,
    forecast: Annotated[bool, typer.Option("--forecast", help="With a forecast of fine-tuning.")] = False,
    zoo: ZooName = None,
    max_parameters: MaxParameters = None,
    max_gflops: MaxGflops = None,
    max_memory: MaxMemory = None,
    license: License = None,  # noqa: A002
    family: Family = None,
    pretrained_on: PretrainedOn = None,
    capability: Capability = None,
    tag: Tag = None,
    as_json: AsJson = False,
) -> None:
    """Foretell how long ranking takes, from what was measured of each model and of past rankings."""
    wanted = constraints(max_parameters, max_gflops, max_memory, license, family, pretrained_on, capability, tag)
    with session(as_json=as_json) as (terminal, client):
        found = client.plans.make(
            images, models=models, workers=workers, scores=score, forecast=forecast, zoo=zoo, constraints=wanted
        )
        terminal.answer(found, _page(found))


def _page(found: "Plan") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from app.cli.tables import facts

    interval = ""
    if found.interval is not None:
        low, high = map(duration, found.interval)
        interval = f"  (80 % of times between {low} and {high})"
    rests_on = f"{found.evaluations} past evaluations" if found.evaluations else "the speeds of admission alone"
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
    return Group(Text(f"{found.models} models on {found.images} images", style="bold"), facts(rows))
