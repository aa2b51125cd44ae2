"""Tenants, what they may have and have, and the audit log."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from app.client.connection import Connection, segment
from app.client.jobs import every
from app.client.resources import Resource


class Amount(Resource):
    """How much of one thing there is, and may be; ``limit`` is None where there is no limit."""

    used: float
    limit: float | None


class Usage(Resource):
    """What a tenant has of what its quotas limit."""

    tenant: str
    bytes: Amount
    datasets: Amount
    open_selections: Amount
    open_finetunes: Amount
    worker_seconds_per_day: Amount
    day_ends_at: datetime


class Tenant(Resource):
    """Who owns data sets and selections; ``usage`` is known of one that was read alone."""

    name: str
    quotas: dict[str, float | None]
    created_at: datetime
    suspended_at: datetime | None
    usage: Usage | None = None


class AuditEvent(Resource):
    """One line of the audit log: ``actor`` did ``action`` to ``target``, which is ``tenant``'s."""

    id: str
    at: datetime
    actor: str
    tenant: str
    action: str
    target: str
    details: dict[str, Any]


class Tenants:
    """All tenants; working with them takes an admin's key."""

    def __init__(self, connection: Connection) -> None:
        """Work over a connection."""
        self._connection = connection

    def create(self, name: str, **quotas: float | None) -> Tenant:
        """Make a tenant; quotas that are left out are as the service is set up."""
        asked = {"name": name, "quotas": quotas}
        return self._connection.read(self._connection.send("POST", "/v1/tenants", json=asked), Tenant)

    def list(self) -> Iterator[Tenant]:
        """Yield every tenant, newest first."""
        return every(self._connection, "/v1/tenants", Tenant)

    def get(self, name: str) -> Tenant:
        """Return one tenant, and what it has."""
        return self._connection.get(_path(name), Tenant)

    def set_quotas(self, name: str, **quotas: float | None) -> Tenant:
        """Change quotas, such as ``datasets=10``; None takes a limit away, and what is left out stays."""
        return self._change(name, {"quotas": quotas})

    def suspend(self, name: str) -> Tenant:
        """Refuse a tenant's keys, and let its jobs wait."""
        return self._change(name, {"suspended": True})

    def resume(self, name: str) -> Tenant:
        """Take a suspension back."""
        return self._change(name, {"suspended": False})

    def _change(self, name: str, body: dict[str, Any]) -> Tenant:
        return self._connection.read(self._connection.send("PATCH", _path(name), json=body), Tenant)


def usage(connection: Connection) -> Usage:
    """Return what the key's tenant has."""
    return connection.get("/v1/usage", Usage)


def audit(
    connection: Connection, *, tenant: str | None = None, action: str | None = None, target: str | None = None
) -> Iterator[AuditEvent]:
    """Yield the lines of the audit log, newest first; it takes an admin's key."""
    return every(connection, "/v1/audit", AuditEvent, tenant=tenant, action=action, target=target)


def _path(name: str) -> str:
    return f"/v1/tenants/{segment(name)}"
