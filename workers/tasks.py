"""What happens when a doorbell rings: claim the job, hold its lease, do the work, end it once.

Every task is safe to run twice, late, or not at all: a job that is not open is left alone, and the sweep rings again.
"""

import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from celery.signals import worker_ready, worker_shutdown, worker_shutting_down
from sqlalchemy.exc import SQLAlchemyError

from app.bell import task_name
from app.domain.errors import EvaluationFailed, ForetuneError
from app.domain.interruption import Interrupted
from app.domain.states import EvaluationState
from app.logs import configure_logs
from app.storage import leases
from app.storage.leases import JobKind, Lease, LeaseLost
from app.storage.repositories.selections import next_of_model
from app.storage.repositories.workers import announce, retire
from app.storage.tables import Evaluation, Finetune, now
from workers import tune
from workers.celery_app import celery
from workers.evaluate import evaluate
from workers.lease import HeldLease
from workers.models import check_model
from workers.prepare import prepare_dataset
from workers.runtime import Runtime, runtime
from workers.settle import settle
from workers.sweep import sweep_until_stopped
from workers.zoo.admission import AdmissionRefused

log = structlog.get_logger()

_ONE_MODEL_IN_A_ROW = 8

Work = Callable[[Runtime, Lease, HeldLease], None]


@celery.task(name=task_name("dataset"))  # type: ignore[untyped-decorator]
def dataset(dataset_id: str) -> None:
    """Prepare an uploaded archive."""
    _do(leases.DATASET, dataset_id, prepare_dataset)


@celery.task(name=task_name("model"))  # type: ignore[untyped-decorator]
def model(model_id: str) -> None:
    """Run the admission checks of a registered model."""
    _do(leases.MODEL, model_id, check_model)


@celery.task(name=task_name("evaluation"))  # type: ignore[untyped-decorator]
def evaluation(evaluation_id: str) -> None:
    """Evaluate one model on one data set, and rank what is known by then; then go on with others of the same model.

    The network is loaded for the first of them. The number is bounded, so that other models get their turn.
    """
    next_id: str | None = evaluation_id
    for _ in range(_ONE_MODEL_IN_A_ROW):
        if next_id is None or not _do(leases.EVALUATION, next_id, evaluate):
            return
        with runtime().database.read() as session:
            done = session.get_one(Evaluation, next_id)
            next_id = None if runtime().stopping.is_set() else next_of_model(session, done.model_id)
        settle(runtime(), done.selection_id)


@celery.task(name=task_name("finetune"))  # type: ignore[untyped-decorator]
def finetune(finetune_id: str) -> None:
    """Really fine-tune some models."""
    if _do(leases.FINETUNE, finetune_id, tune.finetune):
        with runtime().database.read() as session:
            selection_id = session.get_one(Finetune, finetune_id).selection_id
        if selection_id is not None:
            settle(runtime(), selection_id)


@celery.task(name=task_name("settle"))  # type: ignore[untyped-decorator]
def settle_selection(selection_id: str) -> None:
    """Assemble a ranking that a lost worker left behind."""
    settle(runtime(), selection_id)


def _do(kind: JobKind, job_id: str, work: Work) -> bool:
    """Do one job that is open; return whether this process had it."""
    parts = runtime()
    with parts.database.write() as session:
        lease = leases.claim(session, kind, job_id, holder=parts.holder, seconds=parts.settings.lease_seconds)
    if lease is None:
        return False
    with structlog.contextvars.bound_contextvars(kind=kind.name, job=job_id), HeldLease(parts, lease) as held:
        log.info("job.claimed")
        try:
            work(parts, lease, held)
        except Interrupted:
            _put_down(parts, lease, held)
        except LeaseLost:
            log.warning("job.lost")
        except ForetuneError as error:
            _fail(parts, lease, error)
        except Exception as error:
            log.exception("job.crashed")
            message = f"The worker failed in a way nobody foresaw: {type(error).__name__}: {error}"
            _fail(parts, lease, EvaluationFailed("internal_error", message, hint="See the worker's log."))
        else:
            log.info("job.done")
    return True


def _put_down(parts: Runtime, lease: Lease, held: HeldLease) -> None:
    """End an interrupted job if its budget is spent, else leave it to another worker."""
    with parts.database.write() as session:
        if held.over_budget.is_set():
            log.info("job.over_budget")
            with suppress(LeaseLost):  # cancelled meanwhile: it has ended
                leases.finish(session, lease, state=EvaluationState.OVER_BUDGET)
        else:
            log.info("job.given_back")
            leases.give_back(session, lease)


def _fail(parts: Runtime, lease: Lease, error: ForetuneError) -> None:
    log.warning("job.failed", code=error.code, message=error.message)
    parts.loaded.forget()  # it may be what failed, or in the way of what did not fit into memory
    more: dict[str, Any] = {"checks": error.checks} if isinstance(error, AdmissionRefused) else {}
    if lease.kind is leases.FINETUNE:
        more["finished_at"] = now()
    try:
        with parts.database.write() as session:
            leases.fail(session, lease, error, **more)
    except LeaseLost:
        log.warning("job.lost")
    except SQLAlchemyError as unreachable:
        log.error(
            "job.failure_not_stored", error=str(unreachable)
        )  # the lease will run out, and the sweep puts it back


@worker_ready.connect  # type: ignore[untyped-decorator]
def _start(**_: object) -> None:
    configure_logs()
    parts = runtime()
    shutil.rmtree(parts.workspace, ignore_errors=True)
    parts.workspace.mkdir(parents=True)
    with parts.database.write() as session:
        announce(session, parts.holder, parts.device_name)
        for kind in leases.JOB_KINDS:
            leases.free_of_holder(session, kind, parts.holder)
    threading.Thread(target=sweep_until_stopped, args=(parts, celery), name="sweep", daemon=True).start()
    log.info("worker.ready", holder=parts.holder, device=str(parts.device))


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: object) -> None:
    runtime().stopping.set()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _leave(**_: object) -> None:
    parts = runtime()
    with parts.database.write() as session:
        retire(session, parts.holder)
    parts.database.close()
