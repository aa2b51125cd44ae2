"""The time that workers hold jobs of each tenant, day by day, and which tenants' jobs wait because it is spent."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Select, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.domain.states import FINETUNE_TERMINAL, SELECTION_TERMINAL
from app.storage.tables import Finetune, Selection, Tenant, WorkerSeconds, now


def day() -> str:
    """Return today's date in UTC."""
    return now().date().isoformat()


def day_ends_at() -> datetime:
    """Return the next midnight in UTC."""
    return datetime.combine(now().date() + timedelta(days=1), datetime.min.time(), UTC)


def charge(session: Session, tenant: str, seconds: float) -> bool:
    """Add worker time to a tenant's day, and tell whether the day's quota is spent.

    What is open waits then; its selections say so.
    """
    dialect: Any = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    row = dialect.insert(WorkerSeconds).values(tenant=tenant, day=day(), seconds=seconds)
    limit = select(Tenant.max_worker_seconds_per_day).where(Tenant.name == tenant).scalar_subquery()
    charged = session.execute(
        row.on_conflict_do_update(
            index_elements=["tenant", "day"], set_={"seconds": WorkerSeconds.seconds + row.excluded.seconds}
        ).returning(WorkerSeconds.seconds, limit.label("limit"))
    ).one()
    return charged.limit is not None and charged.seconds >= charged.limit


def warn_of_spent_day(session: Session, tenant: str) -> None:
    """Tell the users of every open selection and fine-tune of a tenant why it does not go on; once a day is enough."""
    limit = session.scalar(select(Tenant.max_worker_seconds_per_day).where(Tenant.name == tenant)) or 0
    warning = {
        "code": "worker_seconds_spent",
        "detail": f"On {day()} the tenant's {limit:g} worker seconds are spent. What is queued goes on at "
        f"{day_ends_at():%Y-%m-%dT%H:%MZ}, or when an admin raises the quota.",
    }
    # Fine-tunes before selections, as everybody does who changes both.
    finetunes = select(Finetune).where(Finetune.tenant == tenant, Finetune.state.not_in(FINETUNE_TERMINAL))
    rows: list[Finetune | Selection] = [*session.scalars(finetunes.order_by(Finetune.id).with_for_update())]
    selections = select(Selection).where(Selection.tenant == tenant, Selection.state.not_in(SELECTION_TERMINAL))
    rows += session.scalars(selections.order_by(Selection.id).with_for_update())
    for row in rows:
        if not any(one["code"] == warning["code"] and day() in one["detail"] for one in row.warnings):
            row.warnings = [*row.warnings, warning]
            row.revision += 1
    session.flush()


def barred(*, charged: bool) -> Select[str]:
    """Return the query of the tenants whose jobs wait.

    Args:
        charged: of jobs whose time is charged: they also wait while the day's quota is spent.
    """
    waits: Any = Tenant.suspended_at.is_not(None)
    today = (WorkerSeconds.tenant == Tenant.name) & (WorkerSeconds.day == day())
    if charged:
        waits = or_(waits, func.coalesce(WorkerSeconds.seconds, 0.0) >= Tenant.max_worker_seconds_per_day)
    return select(Tenant.name).outerjoin(WorkerSeconds, today).where(waits)
