"""The audit log: what admins and keys did, when, and to whom. Written in the transaction that does it."""

from typing import Any, Literal, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.ids import new_id
from app.storage.repositories.paging import Page, page
from app.storage.tables import AuditEvent

Action = Literal[
    "key_created",
    "key_rotated",
    "key_revoked",
    "tenant_created",
    "quotas_changed",
    "tenant_suspended",
    "tenant_resumed",
    "dataset_deleted",
    "webhook_created",
    "webhook_rotated",
    "webhook_disabled",
    "webhook_deleted",
    "weights_deleted",
]
NOBODY = "-"
"""The tenant of what is nobody's, such as uploaded weights; no tenant can have this name."""
ACTIONS: tuple[str, ...] = get_args(Action)


def record(
    session: Session, *, actor: str, tenant: str, action: Action, target: str, details: dict[str, Any] | None = None
) -> None:
    """Add a line.

    Args:
        session: the transaction that does what the line tells.
        actor: who: a key's name and id, or the service itself.
        tenant: whose key, data set or quotas it is about.
        action: what was done.
        target: id of the key or data set, or the tenant's name.
        details: what it was before and is now.
    """
    session.add(
        AuditEvent(id=new_id("aud"), actor=actor, tenant=tenant, action=action, target=target, details=details or {})
    )
    session.flush()


def events(
    session: Session,
    *,
    limit: int,
    cursor: str | None,
    tenant: str | None = None,
    action: str | None = None,
    target: str | None = None,
) -> Page[AuditEvent]:
    """List lines, newest first; of one tenant, one kind of action, or about one thing."""
    query = select(AuditEvent)
    for column, wanted in ((AuditEvent.tenant, tenant), (AuditEvent.action, action), (AuditEvent.target, target)):
        if wanted is not None:
            query = query.where(column == wanted)
    return page(session, query, AuditEvent, limit=limit, cursor=cursor)
