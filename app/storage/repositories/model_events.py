"""The audit log of the zoo: who did what to which model, when, and why. Written in the transaction that does it."""

from collections.abc import Iterable
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.ids import new_id
from app.storage.repositories.paging import Page, page
from app.storage.tables import Model, ModelEvent

Action = Literal["registered", "imported", "checks_ended", "status_changed", "tags_changed", "joined_zoo", "left_zoo"]


def record(
    session: Session,
    model_ids: Iterable[str],
    *,
    actor: str,
    action: Action,
    reason: str | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Add one line for each of some models.

    Args:
        session: the transaction that does what the line tells.
        model_ids: of versions.
        actor: who: a key's name and id, a worker, or the service itself.
        action: what was done.
        reason: why, where it was said.
        details: what it was before and is now.
    """
    session.add_all(
        ModelEvent(id=new_id("me"), model_id=one, actor=actor, action=action, reason=reason, details=details or {})
        for one in model_ids
    )
    session.flush()


def record_end_of_checks(session: Session, model_id: str, holder: str | None) -> None:
    """Add the line of checks that have ended just now, in whatever way.

    Args:
        session: the transaction that ends them.
        model_id: the model that was being checked.
        holder: the worker that checked it.
    """
    columns = Model.state, Model.checks, Model.error, Model.reason
    ended = session.execute(select(*columns).where(Model.id == model_id)).one()
    checks = ended.checks or []
    details = {
        "status": ended.state,
        "checks": {
            outcome: sum(check["outcome"] == outcome for check in checks) for outcome in ("pass", "warn", "fail")
        },
        "seconds": round(sum(check["seconds"] for check in checks), 3),
    }
    if ended.error:
        details["error"] = ended.error
    actor = f"worker {holder}" if holder else "worker"
    record(session, [model_id], actor=actor, action="checks_ended", reason=ended.reason, details=details)


def events_of(session: Session, model_id: str, *, limit: int, cursor: str | None) -> Page[ModelEvent]:
    """List the lines of one model version, newest first."""
    query = select(ModelEvent).where(ModelEvent.model_id == model_id)
    return page(session, query, ModelEvent, limit=limit, cursor=cursor)
