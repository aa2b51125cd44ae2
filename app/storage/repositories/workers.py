"""Which worker processes are alive."""

import os
from collections.abc import Mapping, Sequence

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.storage.database import database_now
from app.storage.tables import Worker, now

ALIVE_SECONDS = 30.0
_FORGOTTEN_SECONDS = 24 * 3600.0


def announce(session: Session, name: str, device: str, versions: Mapping[str, str] | None = None) -> None:
    """Note that this process works under a name, and forget workers that were not seen for a day."""
    session.execute(delete(Worker).where(Worker.seen_at < database_now() - _FORGOTTEN_SECONDS))
    row = Worker(name=name, pid=os.getpid(), device=device, versions=dict(versions or {}), started_at=now())
    row.images_per_second, row.seen_at = 0.0, 0.0
    session.merge(row)
    session.flush()
    seen(session, name)


def seen(session: Session, name: str, *, images_per_second: float = 0.0) -> None:
    """Note that a worker is alive, by the database's clock, and how fast its networks see images."""
    noted = {"seen_at": database_now(), "images_per_second": images_per_second}
    session.execute(update(Worker).where(Worker.name == name).values(noted))


def retire(session: Session, name: str) -> None:
    """Note that a worker has ended in good order."""
    session.execute(delete(Worker).where(Worker.name == name))


def is_alive(session: Session, name: str) -> bool:
    """Tell whether a worker was seen lately."""
    recently = Worker.seen_at > database_now() - ALIVE_SECONDS
    return session.scalar(select(Worker.name).where(Worker.name == name, recently)) is not None


def is_first(session: Session, name: str) -> bool:
    """Tell whether a worker is the first by name of those seen lately, which does what one of them is enough for."""
    recently = Worker.seen_at > database_now() - ALIVE_SECONDS
    return session.scalar(select(func.min(Worker.name)).where(recently)) == name


def alive(session: Session) -> int:
    """Count the workers seen lately."""
    return sum(count_by_device(session).values())


def count_by_device(session: Session) -> dict[str, int]:
    """Count the workers seen lately, by what they compute on."""
    recently = Worker.seen_at > database_now() - ALIVE_SECONDS
    counted = select(Worker.device, func.count().label("processes")).where(recently).group_by(Worker.device)
    return {row.device: row.processes for row in session.execute(counted)}


def known(session: Session) -> Sequence[tuple[Worker, float]]:
    """Return every worker that did not end in good order, by name, and the seconds since it was seen."""
    silence = database_now() - Worker.seen_at
    rows = session.execute(select(Worker, silence).order_by(Worker.name))
    return [(worker, max(0.0, seconds)) for worker, seconds in rows]
