"""``foretune zoos``: named parts of the zoo."""

from typing import Annotated

import typer

from app.cli.amounts import counted
from app.cli.options import AsJson
from app.cli.session import session
from app.domain.labels import LABEL_HINT, is_label

commands = typer.Typer(help="Name parts of the zoo, to rank only these.", no_args_is_help=True)


def _named(zoo: str) -> str:
    """Refuse a name that no zoo can have, and that might lead to another route than a zoo's."""
    if not is_label(zoo):
        raise typer.BadParameter(f"{zoo[:60]!r} is no name of a zoo. {LABEL_HINT}")
    return zoo


Name = Annotated[str, typer.Argument(metavar="ZOO", help="Name of a zoo.", callback=_named)]


@commands.command("list")
def list_zoos(as_json: AsJson = False) -> None:
    """List zoos, newest first."""
    with session(as_json=as_json) as (terminal, client):
        terminal.list(
            list(client.zoos.list()),
            ("name", "models", "description", "changed"),
            lambda one: (one.name, len(one.models), one.description, one.updated_at),
        )


@commands.command()
def show(zoo: Name, as_json: AsJson = False) -> None:
    """Show the models of a zoo, one a line."""
    with session(as_json=as_json) as (terminal, client):
        found = client.zoos.get(zoo)
        terminal.answer(found, "\n".join(found.models))


@commands.command("set")
def put(
    zoo: Name,
    models: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="Names of all its models.")] = None,
    description: Annotated[str | None, typer.Option(help="For people; by default the one it has.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a zoo of these models, or give it these in place of those it has."""
    from app.client import ApiError

    with session(as_json=as_json) as (terminal, client):
        if description is None:
            try:
                description = client.zoos.get(zoo).description
            except ApiError as error:
                if error.code != "zoo_not_found":
                    raise
                description = ""
        found = client.zoos.put(zoo, models or [], description=description)
        terminal.answer(found, f"{found.name} has {counted(len(found.models), 'model')}.")


@commands.command()
def delete(zoo: Name, as_json: AsJson = False) -> None:
    """Remove a zoo; its models stay."""
    with session(as_json=as_json) as (terminal, client):
        client.zoos.delete(zoo)
        terminal.answer({"name": zoo, "deleted": True}, f"Removed {zoo}.")
