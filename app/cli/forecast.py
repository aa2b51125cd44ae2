"""``foretune forecast``: how long a model's fine-tuning takes, and what if it were done otherwise."""

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import AsJson, SelectionId
from app.cli.session import session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from app.client.resources import Forecast

_CURVE_POINTS = 9
_CURVE_COLUMNS = ("step", "training loss", "80% of runs", "training accuracy")


def forecast(
    selection: SelectionId,
    model: Annotated[str, typer.Option(help="Id or name of a model that was measured.")],
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="The most steps, where the epochs would need more.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of the gradient.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of all weights.")] = None,
    schedule: Annotated[str | None, typer.Option(help="milestones or constant.")] = None,
    loss: Annotated[str | None, typer.Option(help="cross_entropy or squared.")] = None,
    target: Annotated[float | None, typer.Option(help="Level to reach: 0.1 is a tenth of the initial loss.")] = None,
    kind: Annotated[str | None, typer.Option(help="fraction_of_initial, fraction_of_drop, loss, or accuracy.")] = None,
    speed: Annotated[float | None, typer.Option(help="Of the machine: 4 does a step in a quarter of the time.")] = None,
    price: Annotated[float | None, typer.Option(help="Of an hour of the machine.")] = None,
    method: Annotated[
        str | None,
        typer.Option(help="bilinear (by default), linear_probe, frozen_kernel, gradient_flow or diffusion."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Forecast how long fine-tuning takes; options ask what if, and no network runs for the answer."""
    asked = {
        "lr": lr,
        "batch": batch,
        "epochs": epochs,
        "max_steps": max_steps,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "loss": loss,
        "target": target,
        "kind": kind,
        "speed": speed,
        "price_per_hour": price,
        "method": method,
    }
    changes = {name: value for name, value in asked.items() if value is not None}
    with session(as_json=as_json) as (terminal, client):
        found = client.selections.forecast(selection, model, **changes)
        terminal.answer(found, _page(found))


def duration(seconds: float) -> str:
    """Return seconds as people read them."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds < 6000:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"


def _page(found: "Forecast") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from app.cli.tables import facts, listing
    from app.cli.terminal import printable

    training = found.training
    rows = [
        ("target", found.definition),
        ("training", f"{training['images']} images, {training['epochs']} epochs, {training['steps']} steps"),
        ("learning rate", f"{training['learning_rate']:g}, batches of {training['batch_size']}"),
    ]
    if found.largest_learning_rate is not None:
        rows.append(("stable up to", f"{found.largest_learning_rate:.3g}"))
    if found.step_seconds is not None:
        rows.append(("step", f"{duration(found.step_seconds)} on {_machine(found)}"))
    if found.cost is not None and found.cost_interval is not None:
        rows.append(("cost", f"{found.cost:.3g} ({found.cost_interval[0]:.3g}-{found.cost_interval[1]:.3g})"))
    parts: list[RenderableType] = [Text(printable(_sentence(found)), style="bold"), facts(rows)]
    if found.curve:
        parts += [Text(), listing(_CURVE_COLUMNS, _curve_rows(found.curve))]
    if found.warnings:
        parts.append(Text("Warnings: " + ", ".join(found.warnings) + ".", style="yellow"))
    return Group(*parts)


def _curve_rows(curve: "dict[str, tuple[float, ...]]") -> list[tuple[object, ...]]:
    """Return some points of a curve, evenly spaced, the first and the last among them."""
    last = len(curve["steps"]) - 1
    places = sorted({round(last * part / (_CURVE_POINTS - 1)) for part in range(_CURVE_POINTS)})
    return [
        (
            f"{curve['steps'][place]:.0f}",
            f"{curve['loss'][place]:.3f}",
            f"{curve['low'][place]:.3f}-{curve['high'][place]:.3f}",
            f"{curve['accuracy'][place]:.0%}",
        )
        for place in places
    ]


def _machine(found: "Forecast") -> str:
    """Return whose time it is: the worker's device, or a machine that is told by its speed."""
    name, speed = found.hardware["name"], found.hardware["speed"]
    if speed == 1:
        return found.device if name is None else f"{name}, as on {found.device}"
    return f"{name or 'a machine'} {speed:g} times as fast as {found.device}"


def _sentence(found: "Forecast") -> str:
    rate = found.training["learning_rate"]
    if found.verdict == "unstable":
        return f"{found.name} is not stable at a learning rate of {rate:g}: it is too large to forecast anything."
    if found.steps is None or found.interval is None:
        return f"{found.name} does not get there in {found.training['steps']} steps; its best is {found.best:.3g}."
    time = "" if found.seconds is None else f", {duration(found.seconds)}"
    low, high = found.interval
    sure = "a rough guess" if found.confidence is None else f"{found.confidence:.0%} sure"
    return f"{found.name} gets there in {found.steps:.0f} steps ({low:.0f}-{high:.0f}, {sure}){time}."
