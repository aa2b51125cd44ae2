"""``foretune key``: API keys."""

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import AsJson
from app.cli.session import session

if TYPE_CHECKING:
    from app.client import Key

commands = typer.Typer(
    help="Make, list, rotate and revoke API keys. But for your own, it takes an admin's key.", no_args_is_help=True
)

_SCOPE_HELP = "read, write or admin; again for more. By default read and write."
_OwnOrAny = Annotated[str, typer.Argument(metavar="[KEY]", help="Id of a key, key_...; by default your own.")]


@commands.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[list[str] | None, typer.Option(help=_SCOPE_HELP)] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose data sets it sees; by default your own.")] = None,
    user: Annotated[str | None, typer.Option(help="Who will use it: an e-mail address, or a program.")] = None,
    expires_in_days: Annotated[float | None, typer.Option(min=0, help="When it ends by itself.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it. It cannot be read again."""
    from datetime import UTC, datetime, timedelta

    ends_at = None if expires_in_days is None else datetime.now(UTC) + timedelta(days=expires_in_days)
    with session(as_json=as_json) as (terminal, client):
        scopes = scope or ("read", "write")
        key = client.keys.create(name, scopes=scopes, tenant=tenant, user=user, expires_at=ends_at)
        terminal.note(f"{key.id} for tenant {key.tenant}, with the scopes {', '.join(key.scopes)}. Shown once:")
        terminal.answer(key, key.key)


@commands.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only those of this tenant.")] = None,
    user: Annotated[str | None, typer.Option(help="Only those of this user.")] = None,
    as_json: AsJson = False,
) -> None:
    """List keys, newest first."""
    with session(as_json=as_json) as (terminal, client):
        terminal.list(
            list(client.keys.list(tenant=tenant, user=user)),
            ("id", "name", "user", "tenant", "scopes", "begins with", "made", "last used", "ends"),
            lambda one: (
                *(one.id, one.name, one.user, one.tenant, ", ".join(one.scopes), one.prefix),
                *(one.created_at, one.last_used_at, one.expires_at),
            ),
        )


@commands.command()
def show(key: _OwnOrAny = "me", as_json: AsJson = False) -> None:
    """Show whose key it is, what it may do, and when it ends."""
    with session(as_json=as_json) as (terminal, client):
        from app.cli.tables import facts

        found = client.keys.get(key)
        terminal.answer(found, facts(_facts(found), indent=0))


@commands.command()
def rotate(
    key: _OwnOrAny = "me",
    grace_hours: Annotated[float, typer.Option(min=0, help="How long the secret before is good for yet.")] = 24,
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret and print it. It cannot be read again."""
    with session(as_json=as_json) as (terminal, client):
        rotated = client.keys.rotate(key, grace_hours=grace_hours)
        terminal.note(f"The secret of {rotated.id} before is good until {rotated.previous_until}. Shown once:")
        terminal.answer(rotated, rotated.key)


@commands.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id of a key, key_...")], as_json: AsJson = False
) -> None:
    """End a key at once."""
    with session(as_json=as_json) as (terminal, client):
        client.keys.revoke(key)
        terminal.answer({"id": key, "revoked": True}, f"Revoked {key}.")


def _facts(key: "Key") -> list[tuple[str, object]]:
    return [
        ("key", f"{key.id} {key.prefix}..."),
        ("name", key.name),
        ("user", key.user),
        ("tenant", key.tenant),
        ("scopes", ", ".join(key.scopes)),
        ("made", key.created_at),
        ("last used", key.last_used_at),
        ("rotated", key.rotated_at),
        ("ends", key.expires_at or "never"),
    ]
