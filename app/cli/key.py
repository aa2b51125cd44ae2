"""``foretune key``: API keys."""

from typing import Annotated

import typer

from app.cli.options import AsJson
from app.cli.session import session

commands = typer.Typer(help="Make, list and revoke API keys. Takes an admin's key.", no_args_is_help=True)

_SCOPE_HELP = "read, write or admin; again for more. By default read and write."


@commands.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what will use it.")],
    scope: Annotated[list[str] | None, typer.Option(help=_SCOPE_HELP)] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose data sets it sees; by default your own.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it. It cannot be read again."""
    with session(as_json=as_json) as (terminal, client):
        key = client.keys.create(name, scopes=scope or ("read", "write"), tenant=tenant)
        terminal.note(f"{key.id} for tenant {key.tenant}, with the scopes {', '.join(key.scopes)}. Shown once:")
        terminal.answer(key, key.key)


@commands.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List keys, newest first."""
    with session(as_json=as_json) as (terminal, client):
        terminal.list(
            list(client.keys.list()),
            ("id", "name", "tenant", "scopes", "begins with", "made"),
            lambda one: (one.id, one.name, one.tenant, ", ".join(one.scopes), one.prefix, one.created_at),
        )


@commands.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id of a key, key_...")], as_json: AsJson = False
) -> None:
    """End a key at once."""
    with session(as_json=as_json) as (terminal, client):
        client.keys.revoke(key)
        terminal.answer({"id": key, "revoked": True}, f"Revoked {key}.")
