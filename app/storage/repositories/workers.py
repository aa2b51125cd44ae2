"""Which worker processes are alive."""

import os

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.storage.database import database_now
from app.storage.tables import Worker, now

ALIVE_SECONDS = 30.0


def announce(session: Session, name: str, device: str) -> None:
    """Note that this process works under a name."""
    session.merge(Worker(name=name, pid=os.getpid(), device=device, started_at=now(), seen_at=0.0))
    session.flush()
    seen(session, name)


def seen(session: Session, name: str) -> None:
    """Note that a worker is alive, by the database's clock."""
    row = session.get(Worker, name)
    if row is not None:
        row.seen_at = session.scalar(select(database_now())) or 0.0


def retire(session: Session, name: str) -> None:
    """Note that a worker has ended in good order."""
    session.execute(delete(Worker).where(Worker.name == name))


def alive(session: Session) -> int:
    """Count the workers seen lately."""
    recently = Worker.seen_at > database_now() - ALIVE_SECONDS
    return session.scalar(select(func.count()).select_from(Worker).where(recently)) or 0
