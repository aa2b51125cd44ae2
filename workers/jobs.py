"""Doing jobs: whose turn it is, holding the lease, doing the work, ending it once.

Which job is done is decided when a worker is free, by ``app.storage.fair_order``, not by the order of messages.
"""

import time
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.domain.errors import EvaluationFailed, ForetuneError
from app.domain.interruption import Interrupted
from app.storage import doorbells, fair_order, leases
from app.storage.leases import JobKind, Lease, LeaseLost
from app.storage.repositories.origins import origin_of, origin_of_selection
from app.storage.repositories.selections import next_of_model
from app.storage.tables import Evaluation, Finetune, now
from workers import tune
from workers.evaluate import evaluate
from workers.lease import HeldLease
from workers.metrics import JOBS_ENDED
from workers.models import check_model
from workers.prepare import prepare_dataset
from workers.runtime import Runtime, runtime
from workers.settle import settle
from workers.zoo.admission import AdmissionRefused

log = structlog.get_logger()

_ONE_MODEL_IN_A_ROW = 8
_ONE_SHIFT_SECONDS = 1.0
_ATTEMPTS = 5

Work = Callable[[Runtime, Lease, HeldLease], None]


def answer(rung: JobKind, rung_id: str) -> None:
    """Do what waits, now that a doorbell has rung: one job of each kind, whichever the bell is of.

    Messages come one after the other. Were each answered by the job that it names, a tenant's ten thousand evaluations
    would be done before another's first one, and before the data set that somebody has just uploaded.
    """
    for kind, do in (
        (leases.DATASET, _prepare),
        (leases.MODEL, _check),
        (leases.FINETUNE, _finetune),
        (leases.EVALUATION, _evaluate),
    ):
        if not runtime().stopping.is_set():
            do(rung_id if kind is rung else None)


def settle_ranking(selection_id: str) -> None:
    """Assemble the ranking of what is known of a selection."""
    parts = runtime()
    with parts.database.read() as session:
        origin = origin_of_selection(session, selection_id)
    with (
        structlog.contextvars.bound_contextvars(**origin.logged),
        parts.stage("settle", traceparent=origin.traceparent),
    ):
        settle(parts, selection_id)


def _prepare(rung_id: str | None) -> None:
    _do_next(leases.DATASET, rung_id, prepare_dataset)


def _check(rung_id: str | None) -> None:
    _do_next(leases.MODEL, rung_id, check_model)


def _finetune(rung_id: str | None) -> None:
    """Really fine-tune some models, and settle the selection that they prove."""
    finetune_id = _do_next(leases.FINETUNE, rung_id, tune.finetune)
    if finetune_id is not None:
        with runtime().database.read() as session:
            selection_id = session.get_one(Finetune, finetune_id).selection_id
        if selection_id is not None:
            settle_ranking(selection_id)


def _evaluate(rung_id: str | None) -> None:
    """Evaluate models for a moment, and rank what is known by then: what was kept of earlier ones takes no time."""
    began_at = time.monotonic()
    while (evaluation_id := _do_next(leases.EVALUATION, rung_id, evaluate)) is not None:
        _evaluate_others_of_model(evaluation_id)
        if runtime().stopping.is_set() or time.monotonic() - began_at > _ONE_SHIFT_SECONDS:
            return
        rung_id = None


def _evaluate_others_of_model(evaluation_id: str) -> None:
    """Rank what an evaluation has told, and go on with others of the same model, whose network is loaded.

    The number is bounded, so that other models and other tenants get their turn.
    """
    for others in range(_ONE_MODEL_IN_A_ROW):
        with runtime().database.read() as session:
            done = session.get_one(Evaluation, evaluation_id)
            may_go_on = others + 1 < _ONE_MODEL_IN_A_ROW and not runtime().stopping.is_set()
            next_id = next_of_model(session, done.model_id) if may_go_on else None
        settle_ranking(done.selection_id)
        if next_id is None or not _do(leases.EVALUATION, next_id, evaluate):
            return
        evaluation_id = next_id


def _do_next(kind: JobKind, rung_id: str | None, work: Work) -> str | None:
    """Do the job of a kind whose turn it is, and return its id; None if none may begin."""
    parts = runtime()
    lease = None
    for _ in range(_ATTEMPTS):  # another worker may take the job by its id at the same moment
        with parts.database.read() as session:
            if not fair_order.waits(session, kind):
                return None
        with parts.database.write() as session:
            job_id = fair_order.take_turn(session, kind)
            lease = None if job_id is None else _claim(parts, session, kind, job_id)
        if lease is not None:
            break
    if lease is None:
        return None
    if rung_id is not None and rung_id != lease.id:
        with parts.database.write() as session:
            doorbells.pass_on(session, kind, rung_id, lease.id)
    _work(parts, lease, work)
    return lease.id


def _do(kind: JobKind, job_id: str, work: Work) -> bool:
    """Do one job that is open; return whether this process had it."""
    parts = runtime()
    with parts.database.write() as session:
        lease = _claim(parts, session, kind, job_id)
    if lease is None:
        return False
    _work(parts, lease, work)
    return True


def _claim(parts: Runtime, session: Session, kind: JobKind, job_id: str) -> Lease | None:
    return leases.claim(session, kind, job_id, holder=parts.holder, seconds=parts.settings.lease_seconds)


def _work(parts: Runtime, lease: Lease, work: Work) -> None:
    """Do a job while holding it, and end it once."""
    with parts.database.read() as session:
        origin = origin_of(session, lease.kind, lease.id)
    about = {f"foretune.{name}": value for name, value in origin.ids.items()}
    with (
        structlog.contextvars.bound_contextvars(kind=lease.kind.name, job=lease.id, **origin.logged),
        parts.tracing.span(lease.kind.name, about, traceparent=origin.traceparent),
        HeldLease(parts, lease) as held,
    ):
        log.info("job.claimed")
        try:
            work(parts, lease, held)
        except Interrupted:
            held.put_down()
        except LeaseLost:
            log.warning("job.lost")
            JOBS_ENDED.labels(lease.kind.name, "lost", "").inc()
        except ForetuneError as error:
            _fail(parts, lease, error)
        except Exception as error:
            log.exception("job.crashed")
            message = f"The worker failed in a way nobody foresaw: {type(error).__name__}: {error}"
            _fail(parts, lease, EvaluationFailed("internal_error", message, hint="See the worker's log."))
        else:
            log.info("job.done")
            JOBS_ENDED.labels(lease.kind.name, "failed" if held.rejected else "done", held.rejected).inc()


def _fail(parts: Runtime, lease: Lease, error: ForetuneError) -> None:
    log.warning("job.failed", code=error.code, message=error.message)
    parts.loaded.forget()  # it may be what failed, or in the way of what did not fit into memory
    more: dict[str, Any] = {"checks": error.checks} if isinstance(error, AdmissionRefused) else {}
    if lease.kind is leases.FINETUNE:
        more["finished_at"] = now()
    try:
        with parts.database.write() as session:
            ended = leases.fail(session, lease, error, **more)
        parts.tracing.annotate(**{"error.type": error.code})
        JOBS_ENDED.labels(lease.kind.name, "failed" if ended else "retried", error.code).inc()
    except LeaseLost:
        log.warning("job.lost")
        JOBS_ENDED.labels(lease.kind.name, "lost", "").inc()
    except SQLAlchemyError as unreachable:
        log.error(
            "job.failure_not_stored", error=str(unreachable)
        )  # the lease will run out, and the sweep puts it back
