"""The sweep: finds work whose doorbell was lost, and work whose worker was lost."""

import os
import random
import signal
import time

import structlog
from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy.exc import SQLAlchemyError

from app.bell import task_name
from app.domain.errors import Unavailable
from app.metrics import RINGS
from app.storage import doorbells, leases
from app.storage.leases import JOB_KINDS, JobKind
from app.storage.leftovers import Leftovers
from app.storage.orphans import delete_orphans
from app.storage.purge import purge_deleted
from app.storage.repositories import datasets, deliveries, due_rankings, idempotency, watching, workers
from app.storage.retention import delete_expired
from workers.metrics import LEASES_EXPIRED
from workers.runtime import Runtime
from workers.supervise import SUPERVISOR_VARIABLE

log = structlog.get_logger()

_SEEN_EVERY_SECONDS = 5.0
_TIDY_EVERY_SECONDS = 30.0
_ORPHANS_EVERY_SECONDS = 3600.0


def sweep_until_stopped(runtime: Runtime, celery: Celery) -> None:
    """Sweep every ``sweep_seconds`` until the process is to end; failures are logged and tried again.

    Every worker rings. What one of them is enough for is done by the first by name of those alive, so that a store is
    not listed by hundreds of them.
    """
    seen_at = tidied_at = 0.0
    orphans_at = time.monotonic()
    leftovers = Leftovers(runtime.database, runtime.objects)
    supervisor = int(os.environ.get(SUPERVISOR_VARIABLE, os.getppid()))
    while not runtime.stopping.wait(runtime.settings.sweep_seconds):
        if os.getppid() != supervisor:
            log.warning("worker.orphaned")  # the supervisor was killed: nobody would restart or stop this process
            os.kill(os.getpid(), signal.SIGTERM)
            return
        try:
            ring(runtime, celery)
            with runtime.database.read() as session:
                is_first = workers.is_first(session, runtime.holder)
            if is_first:
                rank_unsettled(runtime)
            if time.monotonic() - seen_at > _SEEN_EVERY_SECONDS:
                seen_at = time.monotonic()
                with runtime.database.write() as session:
                    rate = runtime.throughput.per_second()
                    workers.seen(session, runtime.holder, images_per_second=rate)
                if is_first:
                    follow_the_zoo(runtime)
            if time.monotonic() - tidied_at > _TIDY_EVERY_SECONDS:
                tidied_at = time.monotonic()
                runtime.weights.discard_drafts(older_than_seconds=runtime.settings.receive_timeout_seconds)
                if is_first:
                    tidy(runtime, leftovers)
            if is_first and time.monotonic() > orphans_at:
                orphans_at = time.monotonic() + orphan_pause(runtime.settings.orphan_seconds)
                delete_old_orphans(runtime, leftovers)
        except (SQLAlchemyError, OSError, Unavailable) as error:
            log.warning("sweep.failed", error=str(error))


def ring(runtime: Runtime, celery: Celery) -> None:
    """Free expired leases, and ring for open jobs that nobody answered."""
    again = runtime.settings.ring_again_seconds
    with runtime.database.read() as session:
        limit = doorbells.wanted(session)
        due_kinds = [
            kind for kind in JOB_KINDS if doorbells.has_due(session, kind, ring_again_seconds=again, limit=limit)
        ]
    for kind in due_kinds:
        with runtime.database.write() as session:
            for job_id in leases.free_expired(session, kind):
                log.warning("lease.expired", kind=kind.name, job=job_id)
                LEASES_EXPIRED.labels(kind.name).inc()
            due = doorbells.ring_due(session, kind, ring_again_seconds=again, limit=limit)
        if not all(_ring(celery, kind, job_id) for job_id in due):
            runtime.unheard.set()


def _ring(celery: Celery, kind: JobKind, job_id: str) -> bool:
    """Ring for one job; False where the broker does not take it."""
    try:
        celery.send_task(task_name(kind.name), args=[job_id], retry=False, ignore_result=True)
    except (BrokerError, OSError) as error:
        log.warning("bell.unreachable", kind=kind.name, job=job_id, error=str(error))
        RINGS.labels(kind.name, "false").inc()
        return False
    RINGS.labels(kind.name, "true").inc()
    return True


def rank_unsettled(runtime: Runtime) -> None:
    """Have selections ranked of which more is known than was at the last time, also by workers that were lost."""
    with runtime.database.read() as session:
        unsettled = due_rankings.unsettled(session)
    for selection_id in unsettled:
        runtime.to_rank.put(selection_id)


def follow_the_zoo(runtime: Runtime) -> None:
    """Rank models that joined the zoo for the selections that watch it."""
    with runtime.database.read() as session:
        overdue = watching.overdue(session, patience_seconds=runtime.settings.watch_patience_seconds)
    for selection_id in overdue:
        with runtime.database.write() as session:
            successor = watching.follow(session, selection_id)
        if successor is not None:
            log.info("selection.followed", selection=selection_id, by=successor.id)


def tidy(runtime: Runtime, leftovers: Leftovers) -> None:
    """Remove what nobody needs any more."""
    with runtime.database.write() as session:
        datasets.mark_stale_uploads(session, older_than_seconds=runtime.settings.receive_timeout_seconds)
        idempotency.prune(session, hours=runtime.settings.idempotency_hours)
        deliveries.prune(session, days=runtime.settings.webhook_history_days)
    expired = delete_expired(runtime.database, runtime.objects)
    if any(expired.values()):
        log.info("retention.deleted", **expired)
    purge_deleted(runtime.database, runtime.objects)
    if deleted := leftovers.delete_of_finetunes():
        log.info("finetune.leftovers_deleted", objects=deleted)
    runtime.objects.discard_drafts(older_than_seconds=runtime.settings.receive_timeout_seconds)


def delete_old_orphans(runtime: Runtime, leftovers: Leftovers) -> None:
    """Remove what killed processes have left in the object store, and uploaded weights that became no model."""
    if deleted := leftovers.delete_weights():
        log.info("weights.leftovers_deleted", objects=deleted)
    if deleted := delete_orphans(runtime.database, runtime.objects, older_than_seconds=runtime.settings.orphan_seconds):
        log.info("orphans.deleted", of=deleted)


def orphan_pause(orphan_seconds: float) -> float:
    """Return how long to wait before the object store is listed again: an hour, less where orphans are to go sooner.

    Services that were started together do not all list it at the same time.
    """
    return min(_ORPHANS_EVERY_SECONDS, max(orphan_seconds, _TIDY_EVERY_SECONDS)) * random.uniform(0.5, 1.5)  # noqa: S311
