"""Whose turn it is: jobs are taken from tenants in turn, and those of one tenant in the order they came in.

The tenant that no worker has served for longest comes first, so that one with ten waiting jobs is served as often as
one with ten thousand. What finds its turn costs one look into an index for each tenant that waits, however many jobs
there are: ``(state, tenant, created_at, id)``.
"""

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.storage.database import database_now
from app.storage.leases import EVALUATION, FINETUNE, JobKind, is_open
from app.storage.repositories.worker_seconds import barred
from app.storage.tables import Dataset, Evaluation, Finetune, Model, Tenant

_CHARGED = (EVALUATION, FINETUNE)


def take_turn(session: Session, kind: JobKind) -> str | None:
    """Return the open job of a kind whose turn it is, and note that its tenant was served; None if nothing may begin.

    Whoever is about to serve the same tenant waits until the transaction ends, and then gets the next job.
    """
    if issubclass(kind.table, Model):
        return session.scalar(select(Model.id).where(is_open(kind)).order_by(Model.created_at, Model.id).limit(1))
    tenant = next(iter(waiting_tenants(session, kind, limit=1)), None)
    if tenant is None:
        return None
    # The tenant before the job, as everybody does who takes both.
    session.execute(
        update(Tenant)
        .where(Tenant.name == tenant)
        .values(served_at=database_now())
        .execution_options(synchronize_session=False)
    )
    table = _owned(kind)
    oldest = select(table.id).where(is_open(kind), table.tenant == tenant).order_by(table.created_at, table.id)
    return session.scalar(oldest.limit(1))


def waits(session: Session, kind: JobKind) -> bool:
    """Tell, without writing, whether a job of a kind may begin."""
    if issubclass(kind.table, Model):
        return session.scalar(select(Model.id).where(is_open(kind)).limit(1)) is not None
    return bool(waiting_tenants(session, kind, limit=1))


def waiting_tenants(session: Session, kind: JobKind, *, limit: int) -> list[str]:
    """Return the tenants with open jobs of a kind, the one that was not served for longest first.

    Left out are those that are suspended and, where time is charged, those whose worker seconds of today are spent.
    """
    table = _owned(kind)
    first = select(table.tenant).where(is_open(kind)).order_by(table.tenant).limit(1).scalar_subquery()
    # One look into the index after the other: counting all open jobs would read all of them.
    found = select(first.label("tenant")).cte("found", recursive=True)
    after = select(table.tenant).where(is_open(kind), table.tenant > found.c.tenant).order_by(table.tenant).limit(1)
    found = found.union_all(
        select(after.correlate(found).scalar_subquery().label("tenant")).where(found.c.tenant.is_not(None))
    )
    query = (
        select(found.c.tenant)
        .outerjoin(Tenant, Tenant.name == found.c.tenant)
        .where(found.c.tenant.is_not(None), found.c.tenant.not_in(barred(charged=kind in _CHARGED)))
        .order_by(func.coalesce(Tenant.served_at, 0.0), found.c.tenant)
    )
    return list(session.scalars(query.limit(limit)))


def _owned(kind: JobKind) -> type[Dataset] | type[Evaluation] | type[Finetune]:
    table = kind.table
    assert not issubclass(table, Model)  # models are everybody's
    return table
