"""Switching models on and off, tagging them, and reading what was done to them: parts of ``foretune models``."""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import AsJson, ModelName, Reason
from app.cli.session import session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from app.client import Foretune, Model, ModelEvent

Tags = Annotated[list[str], typer.Argument(metavar="TAG...", help="Lower-case letters, digits, '.', '_' and '-'.")]


def enable(model: ModelName, reason: Reason = None, as_json: AsJson = False) -> None:
    """Use a disabled or deprecated model again."""
    usable = ("active", "disabled", "deprecated")
    _switch(model, lambda client, model_id: client.models.enable(model_id, reason), usable, as_json=as_json)


def disable(model: ModelName, reason: Reason = None, as_json: AsJson = False) -> None:
    """Leave a model out of later selections; rankings made with it stay as they are."""
    used_first = ("active",), ("deprecated",), ("disabled",)
    _switch(model, lambda client, model_id: client.models.disable(model_id, reason), *used_first, as_json=as_json)


def deprecate(
    model: ModelName,
    reason: Annotated[str, typer.Option(help="Why, and what to take instead: who asks for the model reads it.")],
    as_json: AsJson = False,
) -> None:
    """Leave a model out of later selections that do not name it."""
    active_first = ("active",), ("deprecated",)
    _switch(model, lambda client, model_id: client.models.deprecate(model_id, reason), *active_first, as_json=as_json)


def withdraw(model: ModelName, reason: Reason = None, as_json: AsJson = False) -> None:
    """Stop the checks of a model that is not checked yet; recheck lets them run after all."""
    unchecked = ("pending", "checking")
    _switch(model, lambda client, model_id: client.models.withdraw(model_id, reason), unchecked, as_json=as_json)


def recheck(model: ModelName, reason: Reason = None, as_json: AsJson = False) -> None:
    """Check a model again that was rejected or quarantined for a cause outside of it, or withdrawn."""
    refused = ("rejected", "quarantined")
    _switch(model, lambda client, model_id: client.models.recheck(model_id, reason), refused, as_json=as_json)


def _switch(
    name: str, change: Callable[["Foretune", str], "Model"], *preferred: Collection[str], as_json: bool
) -> None:
    """Change a model; of a name, the newest version that is in one of these states is meant, the first ones first."""
    from app.cli.lookup import find_model

    with session(as_json=as_json) as (terminal, client):
        model = change(client, find_model(client, name, *preferred).id)
        terminal.answer(model, f"{model.name} version {model.version} is {model.status}.")


def tag(model: ModelName, tags: Tags, as_json: AsJson = False) -> None:
    """Add tags to a model."""
    _tag(model, lambda client, model_id: client.models.tag(model_id, tags), as_json=as_json)


def untag(model: ModelName, tags: Tags, as_json: AsJson = False) -> None:
    """Take tags off a model."""
    _tag(model, lambda client, model_id: client.models.untag(model_id, tags), as_json=as_json)


def _tag(name: str, change: Callable[["Foretune", str], "Model"], *, as_json: bool) -> None:
    from app.cli.lookup import find_model

    with session(as_json=as_json) as (terminal, client):
        model = change(client, find_model(client, name).id)
        terminal.answer(model, f"{model.name}: {', '.join(model.tags) or 'no tags'}")


def log(model: ModelName, as_json: AsJson = False) -> None:
    """Show how a model's checks went, what to do if they failed, and who has done what to it since."""
    from app.cli.lookup import find_model

    with session(as_json=as_json) as (terminal, client):
        found = find_model(client, model)
        events = list(client.models.events(found.id))
        told = {"model": found.id, "status": found.status, "checks": list(found.checks), "error": found.error}
        terminal.keep_lines_whole()
        terminal.answer(told | {"events": events}, _log(found, events))


def _log(model: "Model", events: list["ModelEvent"]) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from app.cli.tables import facts, listing
    from app.cli.terminal import printable

    title = Text.assemble((printable(model.name), "bold"), f"  version {model.version}  {model.id}  {model.status}\n")
    checks = listing(
        ("check", "outcome", "seconds", "detail"),
        [(one["name"], one["outcome"], one["seconds"], _found(one)) for one in model.checks],
    )
    parts: list[RenderableType] = [title, checks if model.checks else Text("No check has ended yet.")]
    if model.error is not None:
        error = [("error", f"{model.error.message} ({model.error.code})"), ("what to do", model.error.hint)]
        parts += [Text(), facts(error, indent=0)]
    lines = listing(
        ("when", "who", "action", "detail"), [(one.at, one.actor, one.action, _told(one)) for one in events]
    )
    return Group(*parts, Text(), lines)


def _found(check: dict[str, Any]) -> str:
    """Return what a check found, and what to do about a warning; the hint of a failure stands below all checks."""
    hint = check.get("hint") if check["outcome"] == "warn" else None
    return ". ".join(part for part in (check.get("detail"), hint) if part)


def _told(event: "ModelEvent") -> str:
    """Return what an event changed, and why."""
    details = event.details
    parts = []
    if "was" in details:
        parts.append(f"{_shown(details['was'])} -> {_shown(details['now'])}")
    if "zoo" in details:
        parts.append(details["zoo"])
    if "checks" in details:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in details["checks"].items() if count)
        parts.append(f"{details['status']}: {counts or 'no checks'} in {details['seconds']:g} s")
    return "; ".join(parts + ([event.reason] if event.reason else []))


def _shown(value: object) -> str:
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)
