"""How a worker comes to hold a job alone, and how a job outlives its worker.

A row in its open state is claimed by one compare-and-set that writes a fresh token and an expiry by the database's
clock. The holder renews the expiry while it works. Only the holder of the token can finish the row, so a worker that
was frozen past its lease and resumed changes nothing. A sweep returns rows whose lease expired to the open state,
until the retry budget of ``worker_lost`` is spent.

Messages play no part in this: a lost, doubled or reordered doorbell changes nothing.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, func, literal, select, update
from sqlalchemy.orm import Session

from app.domain.errors import ForetuneError
from app.domain.states import (
    DATASET_GONE,
    DATASET_JOB,
    EVALUATION_JOB,
    FINETUNE_JOB,
    MODEL_JOB,
    RETRY_BUDGET,
    EvaluationState,
    FinetuneState,
    JobStates,
)
from app.storage.database import database_now
from app.storage.repositories.model_events import record_end_of_checks
from app.storage.repositories.outbox import tell_dataset_end, tell_finetune_end
from app.storage.tables import Dataset, Evaluation, Finetune, Model


@dataclass(frozen=True)
class JobKind:
    """A table whose rows are work.

    ``on_end`` is called in the transaction that ends a job, with the job's id and who held it.
    """

    name: str
    table: type[Dataset] | type[Model] | type[Evaluation] | type[Finetune]
    states: JobStates
    on_end: Callable[[Session, str, str | None], None] | None = None


DATASET = JobKind("dataset", Dataset, DATASET_JOB, on_end=tell_dataset_end)
MODEL = JobKind("model", Model, MODEL_JOB, on_end=record_end_of_checks)
EVALUATION = JobKind("evaluation", Evaluation, EVALUATION_JOB)
FINETUNE = JobKind("finetune", Finetune, FINETUNE_JOB, on_end=tell_finetune_end)
JOB_KINDS = (DATASET, MODEL, EVALUATION, FINETUNE)

_FREE: dict[str, Any] = {"lease_token": None, "lease_holder": None, "lease_expires_at": None, "rung_at": None}


def is_open(kind: JobKind) -> ColumnElement[bool]:
    """Return the condition that a job waits.

    The state is part of the SQL: an index of some states alone serves no query that has its state as a parameter.
    """
    return kind.table.state == literal(str(kind.states.open), literal_execute=True)


def is_held(kind: JobKind) -> ColumnElement[bool]:
    """Return the condition that a worker holds a job, its state as in ``is_open``."""
    return kind.table.state == literal(str(kind.states.held), literal_execute=True)


class LeaseLost(Exception):
    """The job is no longer this worker's: its lease expired, or the job was cancelled or deleted."""


@dataclass(frozen=True)
class Lease:
    """The right to finish one job."""

    kind: JobKind
    id: str
    token: str


def claim(session: Session, kind: JobKind, job_id: str, *, holder: str, seconds: float) -> Lease | None:
    """Take an open job; None when it is not open, which is how a doubled doorbell ends."""
    lease = Lease(kind, job_id, secrets.token_hex(16))
    taken = _update(
        session,
        kind,
        [kind.table.id == job_id, kind.table.state == kind.states.open],
        state=kind.states.held,
        lease_token=lease.token,
        lease_holder=holder,
        lease_taken_at=database_now(),
        lease_expires_at=database_now() + seconds,
        progress=None,
        revision=kind.table.revision + 1,
    )
    return lease if taken else None


def renew(session: Session, lease: Lease, *, seconds: float, progress: dict[str, Any] | None = None) -> None:
    """Extend a lease, and note how far the work has come.

    Raises:
        LeaseLost: another worker may hold the job by now.
    """
    values: dict[str, Any] = {"lease_expires_at": database_now() + seconds}
    if progress is not None:
        values |= {"progress": progress, "revision": lease.kind.table.revision + 1}
    if not _update(session, lease.kind, _held(lease), **values):
        raise LeaseLost(f"{lease.kind.name} {lease.id}")


def note(session: Session, lease: Lease, **values: Any) -> None:
    """Store something of a job while it is held.

    Raises:
        LeaseLost: nothing was stored.
    """
    if not _update(session, lease.kind, _held(lease), revision=lease.kind.table.revision + 1, **values):
        raise LeaseLost(f"{lease.kind.name} {lease.id}")


def finish(session: Session, lease: Lease, **values: Any) -> None:
    """End a job well and store what came out of it.

    Raises:
        LeaseLost: nothing was stored; the job is another worker's, cancelled or deleted.
    """
    done = {"state": lease.kind.states.done, "error": None, "revision": lease.kind.table.revision + 1}
    on_end, holder = lease.kind.on_end, None
    if on_end is not None:
        holder = session.scalar(select(lease.kind.table.lease_holder).where(*_held(lease)))
    if not _update(session, lease.kind, _held(lease), **_FREE, **(done | values)):
        raise LeaseLost(f"{lease.kind.name} {lease.id}")
    if on_end is not None:
        on_end(session, lease.id, holder)


def fail(session: Session, lease: Lease, error: ForetuneError, **values: Any) -> bool:
    """End a job badly, or open it again while the retry budget of the error's code lasts.

    Args:
        session: a writing transaction.
        lease: the right to end the job.
        error: what went wrong.
        values: more columns to store if the job ends.

    Returns:
        True when the job has ended, False when it will be tried again.

    Raises:
        LeaseLost: nothing was stored.
    """
    ended = _put_back(session, lease.kind, lease.id, _held(lease), error.as_dict(), values)
    if ended is None:
        raise LeaseLost(f"{lease.kind.name} {lease.id}")
    return ended


def give_back(session: Session, lease: Lease) -> bool:
    """Open a job again without counting a failure: it is not the job's that the worker cannot go on.

    Returns:
        False where nothing was to be opened: the job is another worker's, or has ended.
    """
    opened = _update(
        session,
        lease.kind,
        _held(lease),
        **_FREE,
        state=lease.kind.states.open,
        progress=None,
        revision=lease.kind.table.revision + 1,
    )
    return bool(opened)


def is_called_off(session: Session, lease: Lease) -> bool:
    """Tell of a lost lease whether users ended the job, by a cancel, a withdrawal or a deletion; else it ran out."""
    table = lease.kind.table
    row = session.execute(select(table.state, table.error).where(table.id == lease.id)).one_or_none()
    if row is None or (row.error or {}).get("code") == "model_withdrawn":
        return True
    return row.state in DATASET_GONE | {EvaluationState.CANCELLED, FinetuneState.CANCELLED}


def count_held(session: Session) -> int:
    """Count the jobs of all kinds that workers hold, those left out whose lease has run out."""
    held = (
        select(func.count()).select_from(kind.table).where(is_held(kind), kind.table.lease_expires_at >= database_now())
        for kind in JOB_KINDS
    )
    return sum(session.scalar(query) or 0 for query in held)


def free_expired(session: Session, kind: JobKind) -> list[str]:
    """Put back every job whose lease ran out, and return their ids."""
    return _free(session, kind, kind.table.lease_expires_at < database_now(), "its lease ran out")


def free_of_holder(session: Session, kind: JobKind, holder: str) -> list[str]:
    """Put back what a worker held that is known to be dead, without waiting for its leases to run out."""
    return _free(session, kind, kind.table.lease_holder == holder, "its process ended")


def _held(lease: Lease) -> list[Any]:
    table = lease.kind.table
    return [table.id == lease.id, table.state == lease.kind.states.held, table.lease_token == lease.token]


def _free(session: Session, kind: JobKind, which: Any, why: str) -> list[str]:
    table = kind.table
    columns = table.id, table.lease_token, table.progress
    rows = session.execute(select(*columns).where(is_held(kind), which)).all()
    freed = []
    for job_id, token, progress in rows:
        during = f" while it was at {progress['stage']}" if progress and progress.get("stage") else ""
        error = {
            "code": "worker_lost",
            "message": f"The worker that held this {kind.name} was lost{during}: {why}.",
            "param": None,
            "hint": "If this happens again and again, look into the worker's log: it may be running out of memory.",
        }
        condition = [table.id == job_id, table.state == kind.states.held, table.lease_token == token]
        if _put_back(session, kind, job_id, condition, error, {}) is not None:
            freed.append(job_id)
    return freed


def _put_back(
    session: Session,
    kind: JobKind,
    job_id: str,
    condition: Sequence[Any],
    error: dict[str, str | None],
    values: dict[str, Any],
) -> bool | None:
    """Fail or reopen one held row; True when it has ended, False when reopened, None when it is not held so."""
    columns = kind.table.failures, kind.table.lease_holder
    row = session.execute(select(*columns).where(kind.table.id == job_id)).one_or_none()
    if row is None:
        return None
    failures = dict(row.failures or {})
    code = str(error["code"])
    failures[code] = failures.get(code, 0) + 1
    ended: bool = failures[code] > RETRY_BUDGET.get(code, 0)
    outcome = {"state": kind.states.after(code), "error": error, **values} if ended else {"state": kind.states.open}
    outcome |= {"failures": failures, "progress": None, "revision": kind.table.revision + 1}
    if not _update(session, kind, condition, **_FREE, **outcome):
        return None
    if ended and kind.on_end is not None:
        kind.on_end(session, job_id, row.lease_holder)
    return ended


def _update(session: Session, kind: JobKind, condition: Sequence[Any], **values: Any) -> int:
    statement = update(kind.table).where(*condition).values(**values)
    result = session.execute(statement, execution_options={"synchronize_session": False})
    assert isinstance(result, CursorResult)
    return int(result.rowcount)
