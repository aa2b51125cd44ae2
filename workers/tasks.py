"""The tasks of the worker process, one for each kind of doorbell, and what it does when it starts and ends.

Every task is safe to run twice, late, or not at all: a job that is not open is left alone, and the sweep rings again.
"""

import shutil
import signal
import threading
from functools import partial
from importlib.metadata import version
from platform import python_version

import structlog
import torch
from celery.signals import worker_ready, worker_shutdown, worker_shutting_down
from sqlalchemy.exc import SQLAlchemyError

from app.bell import task_name
from app.logs import configure_logs
from app.storage import leases
from app.storage.repositories.workers import announce, retire
from workers.celery_app import celery
from workers.delivery import deliver_until_stopped
from workers.jobs import answer
from workers.metrics import LEASES_EXPIRED, tell_metrics
from workers.outages import wait_for_database
from workers.rankings import rank_until_stopped
from workers.runtime import Runtime, runtime
from workers.sweep import ring, sweep_until_stopped
from workers.unrung import answer_unrung_until_stopped

log = structlog.get_logger()


_unrung = threading.Thread(target=lambda: answer_unrung_until_stopped(runtime()), name="unrung", daemon=True)
_ENDING_SECONDS = 15.0  # a fine-tune stores where it is


@celery.task(name=task_name("dataset"))  # type: ignore[untyped-decorator]
def dataset(dataset_id: str) -> None:
    """Answer the doorbell of an upload."""
    answer(leases.DATASET, dataset_id)


@celery.task(name=task_name("model"))  # type: ignore[untyped-decorator]
def model(model_id: str) -> None:
    """Answer the doorbell of a registered model."""
    answer(leases.MODEL, model_id)


@celery.task(name=task_name("evaluation"))  # type: ignore[untyped-decorator]
def evaluation(evaluation_id: str) -> None:
    """Answer the doorbell of an evaluation."""
    answer(leases.EVALUATION, evaluation_id)


@celery.task(name=task_name("finetune"))  # type: ignore[untyped-decorator]
def finetune(finetune_id: str) -> None:
    """Answer the doorbell of a fine-tune."""
    answer(leases.FINETUNE, finetune_id)


@worker_ready.connect  # type: ignore[untyped-decorator]
def _start(**_: object) -> None:
    configure_logs()
    parts = runtime()
    signal.signal(signal.SIGQUIT, _hurry)
    shutil.rmtree(parts.workspace, ignore_errors=True)
    parts.workspace.mkdir(parents=True)
    tell_metrics(parts.settings, parts.database, parts.device_name)
    wait_for_database(parts.stopping, lambda: _sign_in(parts))
    threading.Thread(target=sweep_until_stopped, args=(parts, celery), name="sweep", daemon=True).start()
    threading.Thread(
        target=rank_until_stopped, args=(parts, partial(ring, parts, celery)), name="rankings", daemon=True
    ).start()
    _unrung.start()
    delivery = (parts.database, parts.settings, parts.stopping)
    threading.Thread(target=deliver_until_stopped, args=delivery, name="delivery", daemon=True).start()
    log.info("worker.ready", holder=parts.holder, device=str(parts.device))


def _sign_in(parts: Runtime) -> None:
    """Tell that this worker is there, and free what a process before it held."""
    versions = {"foretune": version("foretune"), "torch": str(torch.__version__), "python": python_version()}
    with parts.database.write() as session:
        announce(session, parts.holder, parts.device_name, versions)
        for kind in leases.JOB_KINDS:
            freed = leases.free_of_holder(session, kind, parts.holder)
            LEASES_EXPIRED.labels(kind.name).inc(len(freed))


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: object) -> None:
    runtime().stopping.set()


def _hurry(_signal: int, _frame: object) -> None:
    """Give the job back at once; the supervisor asks for it when it was told twice to end."""
    runtime().stopping.set()
    runtime().hurrying.set()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _leave(**_: object) -> None:
    parts = runtime()
    if _unrung.is_alive():
        _unrung.join(_ENDING_SECONDS)
    try:
        with parts.database.write() as session:
            retire(session, parts.holder)
    except SQLAlchemyError as error:
        log.warning("worker.not_retired", error=str(error))  # it is taken for dead a little later
    parts.tracing.close()
    parts.database.close()
