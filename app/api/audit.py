"""/v1/audit: what admins and keys did, when, and to whom. For admins of the service."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from app.api.access import Admin, ServiceDep
from app.api.envelopes import After, Limit, ListOf
from app.api.problems import responses
from app.storage.repositories.audit import Action, events
from app.storage.tables import AuditEvent

router = APIRouter(tags=["audit"])


class AuditView(BaseModel):
    """One line of the audit log."""

    id: str
    object: str = "audit_event"
    at: datetime
    actor: str
    tenant: str
    action: str
    target: str
    details: dict[str, Any]


def view(row: AuditEvent) -> AuditView:
    """Return a row as admins see it."""
    return AuditView(
        id=row.id,
        at=row.created_at,
        actor=row.actor,
        tenant=row.tenant,
        action=row.action,
        target=row.target,
        details=row.details,
    )


@router.get("/v1/audit", summary="Read the audit log, newest first", responses=responses(401, 403, 422))
def list_events(
    service: ServiceDep,
    caller: Admin,
    tenant: Annotated[str | None, Query(description="Only what is about this tenant.")] = None,
    action: Annotated[Action | None, Query(description="Only this kind of action.")] = None,
    target: Annotated[str | None, Query(description="Only what is about this key, data set or tenant.")] = None,
    limit: Limit = 50,
    after: After = None,
) -> ListOf[AuditView]:
    """List what was done to keys, tenants and quotas, and which data sets were deleted."""
    with service.database.read() as session:
        page = events(session, limit=limit, cursor=after, tenant=tenant, action=action, target=target)
    return ListOf.of(page, view)
