"""Tenants: who owns data sets, selections and fine-tunes."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, NotFound
from app.domain.ids import new_id
from app.domain.quotas import NAMES, Quotas
from app.storage.repositories.audit import record
from app.storage.repositories.paging import Page, page
from app.storage.tables import Tenant, now


class Tenants:
    """All tenants: only admins of the whole service work with them."""

    def __init__(self, session: Session, *, actor: str) -> None:
        """Work in one transaction; ``actor`` is who the audit log will name."""
        self._session = session
        self._actor = actor

    def create(self, name: str, quotas: Quotas) -> Tenant:
        """Add a tenant.

        Raises:
            Conflict: ``tenant_exists``.
        """
        tenant = self._add(name, quotas)
        if tenant is None:
            raise Conflict(
                "tenant_exists",
                f"There is a tenant {name} already.",
                param="name",
                hint=f"Change it: PATCH /v1/tenants/{name}.",
            )
        return tenant

    def ensure(self, name: str, quotas: Quotas) -> None:
        """Add a tenant with these quotas where there is none of this name: a tenant begins with its first key."""
        if self._session.scalar(select(Tenant.id).where(Tenant.name == name)) is None:
            self._add(name, quotas)

    def get(self, name: str, *, lock: bool = False) -> Tenant:
        """Return one tenant.

        Raises:
            NotFound: ``tenant_not_found``.
        """
        query = select(Tenant).where(Tenant.name == name)
        tenant = self._session.scalar(query.with_for_update() if lock else query)
        if tenant is None:
            raise NotFound(
                "tenant_not_found", f"There is no tenant {name}.", param="tenant", hint="List them: GET /v1/tenants."
            )
        return tenant

    def page(self, *, limit: int, cursor: str | None) -> Page[Tenant]:
        """List tenants, newest first."""
        return page(self._session, select(Tenant), Tenant, limit=limit, cursor=cursor)

    def change(self, name: str, *, quotas: dict[str, Any], suspended: bool | None) -> Tenant:
        """Give a tenant other quotas, suspend or resume it.

        Args:
            name: of the tenant.
            quotas: those to be changed, by name; None takes a limit away.
            suspended: whether its keys are refused and its jobs wait; None leaves that as it is.

        Raises:
            NotFound: ``tenant_not_found``.
        """
        tenant = self.get(name, lock=True)
        was = {quota: getattr(tenant, f"max_{quota}") for quota in quotas}
        if was != quotas:
            for quota, limit in quotas.items():
                setattr(tenant, f"max_{quota}", limit)
            self._record("quotas_changed", name, {"was": was, "now": quotas})
        if suspended is not None and suspended != (tenant.suspended_at is not None):
            tenant.suspended_at = now() if suspended else None
            self._record("tenant_suspended" if suspended else "tenant_resumed", name, {})
        self._session.flush()
        return tenant

    def _add(self, name: str, quotas: Quotas) -> Tenant | None:
        tenant = Tenant(
            id=new_id("ten"), name=name, **{f"max_{quota}": limit for quota, limit in asdict(quotas).items()}
        )
        try:
            with self._session.begin_nested():
                self._session.add(tenant)
                self._session.flush()
        except IntegrityError:
            return None
        self._record("tenant_created", name, {"quotas": asdict(quotas)})
        return tenant

    def _record(self, action: Any, name: str, details: dict[str, Any]) -> None:
        record(self._session, actor=self._actor, tenant=name, action=action, target=name, details=details)


def quotas_of(tenant: Tenant | None) -> Quotas:
    """Return what a tenant may have."""
    return Quotas() if tenant is None else Quotas(**{quota: getattr(tenant, f"max_{quota}") for quota in NAMES})


def limits_of(session: Session, name: str) -> Quotas:
    """Return what the tenant of this name may have."""
    return quotas_of(session.scalar(select(Tenant).where(Tenant.name == name)))
