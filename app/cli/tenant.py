"""``foretune tenants``, ``usage`` and ``audit``: who may have how much, has how much, and who changed that."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.amounts import read_amount
from app.cli.option_group import with_groups
from app.cli.options import AsJson
from app.cli.session import session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from app.client import Tenant, Usage

commands = typer.Typer(help="Make tenants and set their quotas. Takes an admin's key.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="TENANT", help="Name of a tenant.")]
_Unlimited = Annotated[
    list[str] | None,
    typer.Option("--no-limit", metavar="QUOTA", help="Take a limit away, such as bytes; again for more."),
]


@dataclass(frozen=True)
class Limits:
    """Quotas, as the service names them; None where nothing is said of one."""

    bytes: Annotated[
        float | None, typer.Option(metavar="N", parser=read_amount, help="Of uploaded archives, as in 10GB or 1e10.")
    ] = None
    datasets: Annotated[int | None, typer.Option(min=0, help="Data sets.")] = None
    open_selections: Annotated[int | None, typer.Option(min=0, help="Selections that have not ended.")] = None
    open_finetunes: Annotated[int | None, typer.Option(min=0, help="Fine-tunes that have not ended.")] = None
    worker_seconds_per_day: Annotated[
        float | None, typer.Option(min=0, help="Worker seconds from midnight to midnight, UTC.")
    ] = None

    @property
    def given(self) -> dict[str, float]:
        """Those of which something was said."""
        given = {name: limit for name, limit in dataclasses.asdict(self).items() if limit is not None}
        # Whole as they are sent; the service refuses what is not, by name.
        return {name: int(limit) if float(limit).is_integer() else limit for name, limit in given.items()}


@commands.command()
@with_groups
def create(*, name: Name, limits: Limits, as_json: AsJson = False) -> None:
    """Make a tenant before its first key; quotas that are left out are as the service is set up."""
    with session(as_json=as_json) as (terminal, client):
        tenant = client.tenants.create(name, **limits.given)
        terminal.answer(tenant, _facts(tenant))


@commands.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """List tenants, newest first."""
    with session(as_json=as_json) as (terminal, client):
        terminal.list(
            list(client.tenants.list()),
            ("name", "quotas", "made", "suspended"),
            lambda one: (one.name, _told(one.quotas), one.created_at, one.suspended_at),
        )


@commands.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show a tenant's quotas, and what it uses of them."""
    with session(as_json=as_json) as (terminal, client):
        tenant = client.tenants.get(name)
        terminal.answer(tenant, _facts(tenant))


@commands.command("set")
@with_groups
def set_quotas(*, name: Name, limits: Limits, no_limit: _Unlimited = None, as_json: AsJson = False) -> None:
    """Change a tenant's quotas; those that are left out stay."""
    with session(as_json=as_json) as (terminal, client):
        tenant = client.tenants.set_quotas(name, **(limits.given | dict.fromkeys(no_limit or ())))
        terminal.answer(tenant, _facts(tenant))


@commands.command()
def suspend(name: Name, as_json: AsJson = False) -> None:
    """Refuse a tenant's keys and let its jobs wait; nothing of it is lost."""
    with session(as_json=as_json) as (terminal, client):
        terminal.answer(client.tenants.suspend(name), f"Suspended {name}.")


@commands.command()
def resume(name: Name, as_json: AsJson = False) -> None:
    """Take a suspension back."""
    with session(as_json=as_json) as (terminal, client):
        terminal.answer(client.tenants.resume(name), f"Resumed {name}.")


def usage(as_json: AsJson = False) -> None:
    """Show what your tenant uses, and what it may use."""
    with session(as_json=as_json) as (terminal, client):
        found = client.usage()
        terminal.answer(found, _amounts(found))


def audit(
    tenant: Annotated[str | None, typer.Option(help="Only what is about this tenant.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this, such as key_revoked.")] = None,
    target: Annotated[str | None, typer.Option(help="Only what is about this key, data set or tenant.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what admins and keys did, newest first. Takes an admin's key."""
    with session(as_json=as_json) as (terminal, client):
        terminal.list(
            list(client.audit(tenant=tenant, action=action, target=target)),
            ("when", "who", "tenant", "action", "target"),
            lambda one: (one.at, one.actor, one.tenant, one.action, one.target),
        )


def _told(quotas: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {limit:.15g}" for name, limit in quotas.items() if limit is not None) or "no limits"


def _facts(tenant: "Tenant") -> "RenderableType":
    from app.cli.tables import facts

    if tenant.usage is not None:
        return _amounts(tenant.usage, tenant)
    return facts([("tenant", tenant.name), ("quotas", _told(tenant.quotas))], indent=0)


def _amounts(found: "Usage", tenant: "Tenant | None" = None) -> "RenderableType":
    from app.cli.tables import facts

    def told(amount: Any) -> str:
        return f"{amount.used:.15g} of {amount.limit:.15g}" if amount.limit is not None else f"{amount.used:.15g}"

    rows: list[tuple[str, object]] = [
        ("tenant", found.tenant),
        ("bytes", told(found.bytes)),
        ("data sets", told(found.datasets)),
        ("open selections", told(found.open_selections)),
        ("open fine-tunes", told(found.open_finetunes)),
        ("worker seconds", f"{told(found.worker_seconds_per_day)} today, until {found.day_ends_at}"),
    ]
    if tenant is not None and tenant.suspended_at is not None:
        rows.append(("suspended", tenant.suspended_at))
    return facts(rows, indent=0)
