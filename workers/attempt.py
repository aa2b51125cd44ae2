"""One attempt at a job: it is claimed, held while the work is done, and ended once or put back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.domain.errors import EvaluationFailed, ForetuneError, Unavailable
from app.domain.interruption import Interrupted
from app.storage import leases
from app.storage.leases import JobKind, Lease, LeaseLost
from app.storage.outage import database_unavailable, is_away, is_in_trouble
from app.storage.repositories.origins import Origin, origin_of
from app.storage.tables import now
from workers.device_failure import end_process, telling_device_failures
from workers.lease import HeldLease
from workers.metrics import JOBS_ENDED
from workers.outages import WAITING_FOR_STORE, once_database_answers, outlast_store
from workers.runtime import Runtime
from workers.zoo.admission import AdmissionRefused

log = structlog.get_logger()

Work = Callable[[Runtime, Lease, HeldLease], None]
"""Does a job and ends it well, or raises."""


@dataclass(frozen=True)
class Claimed:
    """A job that is this worker's, and who asked for it."""

    lease: Lease
    origin: Origin


def claim(parts: Runtime, session: Session, kind: JobKind, job_id: str) -> Claimed | None:
    """Take an open job for this worker, within a writing transaction; None where it is not open."""
    lease = leases.claim(session, kind, job_id, holder=parts.holder, seconds=parts.settings.lease_seconds)
    return None if lease is None else Claimed(lease, origin_of(session, kind, job_id))


def carry_out(parts: Runtime, claimed: Claimed, work: Work) -> None:
    """Do a job while holding it, and end it once; where that fails through no fault of its own, put it back."""
    lease, origin = claimed.lease, claimed.origin
    about = {f"foretune.{name}": value for name, value in origin.ids.items()}
    with (
        structlog.contextvars.bound_contextvars(kind=lease.kind.name, job=lease.id, **origin.logged),
        parts.tracing.span(lease.kind.name, about, traceparent=origin.traceparent),
        HeldLease(parts, lease) as held,
    ):
        log.info("job.claimed")
        try:
            _attempt(parts, lease, held, work)
        except LeaseLost:
            outcome = held.how_lost()
            log.warning(f"job.{outcome}")
            JOBS_ENDED.labels(lease.kind.name, outcome, "").inc()
    if parts.broken.is_set():
        parts.tracing.close()
        end_process()


def _attempt(parts: Runtime, lease: Lease, held: HeldLease, work: Work) -> None:
    """Do a job, and end it badly or put it back where that fails.

    Raises:
        LeaseLost: nothing was stored.
    """
    try:
        with telling_device_failures(parts.device_name, parts.broken):
            work(parts, lease, held)
    except Interrupted:
        _put_down(held)
    except LeaseLost:
        raise
    except Unavailable as error:
        if error.code in WAITING_FOR_STORE and outlast_store(parts.objects, held, error):
            _put_down(held)
        else:
            _fail(parts, lease, held, error)
    except ForetuneError as error:
        _fail(parts, lease, held, error)
    except SQLAlchemyError as error:
        if is_away(error):
            log.warning("job.interrupted", by="database", error=str(error.__cause__ or error))
            with held.waiting("waiting for the database"):
                _put_down(held)
        elif is_in_trouble(error):
            _fail(parts, lease, held, database_unavailable(error))
        else:
            _crash(parts, lease, held, error)
    except Exception as error:  # noqa: BLE001  (of a stranger's model, anything)
        _crash(parts, lease, held, error)
    else:
        log.info("job.done")
        JOBS_ENDED.labels(lease.kind.name, "failed" if held.rejected else "done", held.rejected).inc()


def _put_down(held: HeldLease) -> None:
    once_database_answers(held, held.put_down)


def _crash(parts: Runtime, lease: Lease, held: HeldLease, error: Exception) -> None:
    log.exception("job.crashed", exc_info=error)
    message = f"The worker failed in a way nobody foresaw: {type(error).__name__}: {error}"
    _fail(parts, lease, held, EvaluationFailed("internal_error", message, hint="See the worker's log."))


def _fail(parts: Runtime, lease: Lease, held: HeldLease, error: ForetuneError) -> None:
    log.warning("job.failed", code=error.code, message=error.message)
    parts.loaded.forget()  # it may be what failed, or in the way of what did not fit into memory
    more: dict[str, Any] = {"checks": error.checks} if isinstance(error, AdmissionRefused) else {}
    if lease.kind is leases.FINETUNE:
        more["finished_at"] = now()

    def store() -> bool:
        with parts.database.write() as session:
            return leases.fail(session, lease, error, **more)

    ended = once_database_answers(held, store)
    parts.tracing.annotate(**{"error.type": error.code})
    JOBS_ENDED.labels(lease.kind.name, "failed" if ended else "retried", error.code).inc()
