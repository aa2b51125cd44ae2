"""When workers are to be woken: open jobs that nobody was told of, or of which nobody took notice.

There are never more than ``limit`` doorbells of a kind on their way. Workers look for the next job themselves when they
are done with one, and a queue of a hundred thousand messages would tell them nothing more.
"""

from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from app.storage.database import database_now
from app.storage.fair_order import waiting_tenants
from app.storage.leases import JobKind, count_held, is_held, is_open
from app.storage.repositories import workers
from app.storage.tables import Model

_SPARE = 8


def wanted(session: Session) -> int:
    """Return how many doorbells of a kind may be on their way; none while all workers are busy.

    Those look for the next job by themselves, and would find the messages, one after the other, when nothing is left.
    """
    alive = workers.alive(session)
    return 0 if 0 < alive <= count_held(session) else _SPARE + 2 * alive


def ring_due(session: Session, kind: JobKind, *, ring_again_seconds: float, limit: int = 1000) -> list[str]:
    """Mark open jobs whose doorbell was never rung, or not answered, as rung, and return their ids, tenants in turn.

    Args:
        session: a writing transaction.
        kind: of job.
        ring_again_seconds: after how long a doorbell that nobody answered counts as lost.
        limit: of doorbells that are rung and not answered.
    """
    table = kind.table
    ids = _due(session, kind, ring_again_seconds, limit)
    if ids:
        session.execute(
            update(table)
            .where(table.id.in_(ids), table.state == kind.states.open)
            .values(rung_at=database_now())
            .execution_options(synchronize_session=False)
        )
    return ids


def has_due(session: Session, kind: JobKind, *, ring_again_seconds: float, limit: int = 1000) -> bool:
    """Tell, without writing, whether a sweep would find anything to free or to ring."""
    table = kind.table
    expired = select(table.id).where(is_held(kind), table.lease_expires_at < database_now())
    return session.scalar(expired.limit(1)) is not None or bool(_due(session, kind, ring_again_seconds, limit))


def pass_on(session: Session, kind: JobKind, rung_id: str, taken_id: str) -> None:
    """Note that the doorbell of one job was answered by taking another: it has the other's doorbell now, if any.

    Without this it would count as rung although no message is on its way.
    """
    table = kind.table
    other = select(table.rung_at).where(table.id == taken_id).scalar_subquery()
    session.execute(
        update(table)
        .where(table.id == rung_id, table.state == kind.states.open)
        .values(rung_at=other)
        .execution_options(synchronize_session=False)
    )


def _due(session: Session, kind: JobKind, ring_again_seconds: float, limit: int) -> list[str]:
    table: Any = kind.table
    lost_before = database_now() - ring_again_seconds
    # The latest ones first: that reads no more than ``limit`` entries of the index, whatever the planner knows.
    latest = select(table.rung_at).where(is_open(kind), table.rung_at.is_not(None)).order_by(table.rung_at.desc())
    rung = latest.limit(limit).subquery()
    room = limit - (session.scalar(select(func.count()).where(rung.c.rung_at >= lost_before)) or 0)
    if room <= 0:
        return []
    due = select(table.id).where(is_open(kind), or_(table.rung_at.is_(None), table.rung_at < lost_before))
    due = due.order_by(table.created_at, table.id)
    if kind.table is Model:
        return list(session.scalars(due.limit(room)))
    tenants = waiting_tenants(session, kind, limit=room)
    found: list[str] = []
    for others, tenant in zip(range(len(tenants), 0, -1), tenants, strict=True):
        share = -(-(room - len(found)) // others)
        found += session.scalars(due.where(table.tenant == tenant).limit(share))
    return found
