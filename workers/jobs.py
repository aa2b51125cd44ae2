"""Doing jobs: whose turn it is, and what follows when one has ended.

Which job is done is decided when a worker is free, by ``app.storage.fair_order``, not by the order of messages.
"""

import time

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.storage import doorbells, fair_order, leases
from app.storage.leases import JobKind
from app.storage.repositories.evaluations import next_of_model
from workers import tune
from workers.attempt import Claimed, Work, carry_out, claim
from workers.evaluate import evaluate
from workers.models import check_model
from workers.outages import wait_for_database
from workers.prepare import prepare_dataset
from workers.runtime import Runtime, runtime

log = structlog.get_logger()

_ONE_MODEL_IN_A_ROW = 8
_ONE_SHIFT_SECONDS = 1.0
_ATTEMPTS = 5


def answer(rung: JobKind | None = None, rung_id: str | None = None) -> None:
    """Do what waits, now that a doorbell has rung, or would have, until nothing waits that may begin.

    Of each kind one job is done before the next one of the same kind, whichever the bell is of. Were messages answered
    by the jobs that they name, a tenant's ten thousand evaluations would be done before another's first one, and before
    the data set that somebody has just uploaded.

    While the database is out there is nothing else to do than to wait for it.
    """
    parts = runtime()
    with parts.working:
        wait_for_database(parts.stopping, lambda: _answer(rung, rung_id))


def _answer(rung: JobKind | None, rung_id: str | None) -> None:
    found = True
    while found:
        found = False
        for kind, do in _BY_KIND:
            if not runtime().stopping.is_set():
                found |= do(rung_id if kind is rung else None)
        rung_id = None


def _prepare(rung_id: str | None) -> bool:
    return _do_next(leases.DATASET, rung_id, prepare_dataset) is not None


def _check(rung_id: str | None) -> bool:
    return _do_next(leases.MODEL, rung_id, check_model) is not None


def _finetune(rung_id: str | None) -> bool:
    """Really fine-tune some models, and have the selection ranked that they prove."""
    claimed = _do_next(leases.FINETUNE, rung_id, tune.finetune)
    if claimed is not None and "selection" in claimed.origin.ids:
        runtime().to_rank.put(claimed.origin.ids["selection"])
    return claimed is not None


def _evaluate(rung_id: str | None) -> bool:
    """Evaluate models for a moment: what was kept of earlier ones takes no time.

    A network that is loaded goes on with other data sets that wait for it. The number is bounded, so that other models
    and other tenants get their turn.
    """
    parts, ends_at = runtime(), time.monotonic() + _ONE_SHIFT_SECONDS
    claimed = _claim_next(leases.EVALUATION, rung_id)
    found, in_a_row = claimed is not None, 1
    while claimed is not None:
        carry_out(parts, claimed, evaluate)
        parts.to_rank.put(claimed.origin.ids["selection"])
        if parts.stopping.is_set():
            break
        before = claimed.origin.ids["model"]
        loaded = before if in_a_row < _ONE_MODEL_IN_A_ROW else None
        claimed = _claim(leases.EVALUATION, model_id=loaded, in_turn=time.monotonic() < ends_at)
        in_a_row = in_a_row + 1 if claimed is not None and claimed.origin.ids["model"] == before else 1
    return found


_BY_KIND = (
    (leases.DATASET, _prepare),
    (leases.MODEL, _check),
    (leases.FINETUNE, _finetune),
    (leases.EVALUATION, _evaluate),
)


def _do_next(kind: JobKind, rung_id: str | None, work: Work) -> Claimed | None:
    """Do the job of a kind whose turn it is, and return it; None if none may begin."""
    claimed = _claim_next(kind, rung_id)
    if claimed is not None:
        carry_out(runtime(), claimed, work)
    return claimed


def _claim_next(kind: JobKind, rung_id: str | None) -> Claimed | None:
    """Claim the job of a kind whose turn it is, now that a doorbell has rung; None if none may begin."""
    parts = runtime()
    with parts.database.read() as session:
        if not fair_order.waits(session, kind):
            return None
    claimed = _claim(kind)
    if claimed is not None and rung_id is not None and rung_id != claimed.lease.id:
        _pass_on(parts, kind, rung_id, claimed.lease.id)
    return claimed


def _claim(kind: JobKind, *, model_id: str | None = None, in_turn: bool = True) -> Claimed | None:
    """Claim a job of a kind; None if none may begin.

    Args:
        kind: of job.
        model_id: an evaluation of this model comes before all others.
        in_turn: whether it may be that whose turn it is.
    """
    parts = runtime()
    for _ in range(_ATTEMPTS):  # another worker may take the job by its id at the same moment
        with parts.database.write() as session:
            job_id = None if model_id is None else next_of_model(session, model_id)
            if job_id is None and in_turn:
                job_id = fair_order.take_turn(session, kind)
            if job_id is None:
                return None
            claimed = claim(parts, session, kind, job_id)
        if claimed is not None:
            return claimed
    return None


def _pass_on(parts: Runtime, kind: JobKind, rung_id: str, taken_id: str) -> None:
    try:
        with parts.database.write() as session:
            doorbells.pass_on(session, kind, rung_id, taken_id)
    except SQLAlchemyError as error:
        # The job that was taken is held already, and ends in good order; the other is rung again a little later.
        log.warning("doorbell.not_passed_on", kind=kind.name, job=rung_id, error=str(error))
