"""Holding a job while working on it: a thread renews the lease, and stops the work when the job is lost."""

import contextvars
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import NoReturn, Self

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.domain.states import EvaluationState
from app.storage import leases
from app.storage.leases import EVALUATION, FINETUNE, Lease, LeaseLost
from app.storage.repositories import finetunes, selections, worker_seconds
from app.storage.repositories.selections import stop_for_budget
from app.storage.repositories.workers import retire
from app.storage.tables import Evaluation, Finetune
from workers.metrics import JOBS_ENDED, LEASES_LOST, WORKER_SECONDS
from workers.runtime import Runtime

log = structlog.get_logger()

_REPORT_EVERY_SECONDS = 0.5
_NOTICE_WITHIN_SECONDS = 2.0  # that the job was cancelled, withdrawn or deleted
_GRACE_SECONDS = 5.0  # with the time to notice, cancelled work ends within ten seconds
_CHECKPOINT_SECONDS = 15.0  # so long may a fine-tune take that is to end, and stores where it is
_EXIT_CODE = 75
_CHARGED = (EVALUATION, FINETUNE)


class HeldLease:
    """A context in which a job is this worker's.

    ``should_stop`` turns true when the selection's budget is spent or the process is to end, and raises ``LeaseLost``
    once the job is another's or was cancelled: work that keeps its state for a successor when it is interrupted must
    not do so then. Work that does not stop soon after, in the middle of a slow forward pass for instance, would hold
    the GPU for nothing: its job is put down and the process exits, and the supervisor starts a fresh one. From a cancel
    or a spent budget until then it takes less than ten seconds.

    The time that an evaluation is held is charged to its selection; that of a fine-tune to itself, and to the selection
    that it proves; either to the tenant's day, too. Time in which the work waits for a part of the service that is out
    (``waiting``) is charged to nobody. When the day is spent, a fine-tune is put down until the next day; an
    evaluation, which takes seconds, is finished.

    Attributes:
        lost: the lease is another's, or the job was cancelled.
        over_budget: the selection's worker time is spent.
        day_spent: the tenant's worker time of this day is spent.
        rejected: the code of the error with which the work itself ended the job, if it did.
    """

    def __init__(self, runtime: Runtime, lease: Lease) -> None:
        """Watch over ``lease``; the watch begins with the context."""
        self.lost = threading.Event()
        self.over_budget = threading.Event()
        self.day_spent = threading.Event()
        self.rejected = ""
        self._runtime = runtime
        self._lease = lease
        self._seconds = runtime.settings.lease_seconds
        self._progress: dict[str, object] | None = None
        self._charged_at = self._counted_at = time.monotonic()
        self._has_budget = False
        self._waits = False
        self._waiting_tenant: str | None = None
        self._alone = threading.Lock()  # who charges: the work that ends, or the thread that renews
        self._has_ended = False
        self._left = threading.Event()
        watch = contextvars.copy_context().run  # the thread's log lines carry what those of the work do
        self._thread = threading.Thread(target=watch, args=(self._watch,), name=f"lease-{lease.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()
        self._count_seconds()
        if self._lease.kind in _CHARGED:
            try:
                if not self._has_ended:
                    with self._charging(is_news=True):
                        pass
                self._stop_others_if_spent()
            except SQLAlchemyError as unreachable:
                log.warning("lease.charge_failed", job=self._lease.id, error=str(unreachable))

    def should_stop(self) -> bool:
        """Tell whether the work must end; asked between batches.

        Raises:
            LeaseLost: it must end, and nothing more of it is to be stored.
        """
        if self.lost.is_set():
            raise LeaseLost(f"{self._lease.kind.name} {self._lease.id}")
        to_wait = self.day_spent.is_set() and self._lease.kind is FINETUNE
        return to_wait or self.over_budget.is_set() or self._runtime.stopping.is_set()

    def report(self, stage: str, done: int, total: int) -> None:
        """Note how far the work has come; users see it within a second."""
        self._progress = {"stage": stage, "done": done, "total": total}

    @contextmanager
    def waiting(self, stage: str) -> Iterator[None]:
        """Charge nobody until the block ends, and let users see what the work waits for."""
        before, self._waits = self._progress, True
        self.report(stage, 0, 0)
        try:
            yield
        finally:
            self._charged_at = time.monotonic()
            self._progress, self._waits = before, False

    @contextmanager
    def ending(self) -> Iterator[Session]:
        """Yield the writing transaction that ends the job: what the job has cost is charged by the same one."""
        with self._alone:
            with self._charging(is_news=True) as session:
                yield session
            self._has_ended = True

    def how_lost(self) -> str:
        """Return what became of a job that is not this worker's any more: ``cancelled``, or withdrawn, or ``lost``."""
        try:
            with self._runtime.database.read() as session:
                return "cancelled" if leases.is_called_off(session, self._lease) else "lost"
        except SQLAlchemyError:
            return "lost"

    def put_down(self) -> None:
        """End the job if its budget is spent, else leave it to another worker."""
        outcome = "over_budget" if self.over_budget.is_set() else "given_back"
        with self._runtime.database.write() as session:
            if outcome == "over_budget":
                with suppress(LeaseLost):  # cancelled meanwhile: it has ended
                    leases.finish(session, self._lease, state=EvaluationState.OVER_BUDGET)
            elif not leases.give_back(session, self._lease):
                outcome = "cancelled" if leases.is_called_off(session, self._lease) else "lost"
        log.info(f"job.{outcome}", kind=self._lease.kind.name, job=self._lease.id)
        JOBS_ENDED.labels(self._lease.kind.name, outcome, "").inc()

    def _watch(self) -> None:
        renewed_at = time.monotonic()
        asked_at: float | None = None
        renew_every = min(_NOTICE_WITHIN_SECONDS, self._seconds / 4)
        reported: dict[str, object] | None = None
        while not self._left.wait(min(_REPORT_EVERY_SECONDS, self._seconds / 4)):
            self._count_seconds()
            if self._runtime.stopping.is_set() or self.over_budget.is_set():
                asked_at = time.monotonic() if asked_at is None else asked_at
                if self._runtime.hurrying.is_set() or time.monotonic() - asked_at > self._patience():
                    self._put_down_and_exit()
            progress = self._progress
            is_due = self._has_budget or time.monotonic() - renewed_at > renew_every
            if progress == reported and not is_due:
                continue
            try:
                self._renew(progress, is_news=progress != reported)
            except LeaseLost:
                how = self.how_lost()
                log.warning(f"lease.{how}", kind=self._lease.kind.name, job=self._lease.id)
                if how == "lost":
                    LEASES_LOST.labels(self._lease.kind.name).inc()
                self._stop_or_exit()
                return
            except SQLAlchemyError as error:
                log.warning("lease.renew_failed", job=self._lease.id, error=str(error))
                if time.monotonic() - renewed_at > self._seconds:
                    self._stop_or_exit()
                    return
                continue
            renewed_at, reported = time.monotonic(), progress

    def _count_seconds(self) -> None:
        now = time.monotonic()
        WORKER_SECONDS.labels(self._lease.kind.name, self._runtime.device_name).inc(now - self._counted_at)
        self._counted_at = now

    def _renew(self, progress: dict[str, object] | None, *, is_news: bool) -> None:
        with self._alone:
            if self._has_ended:
                return
            with self._charging(is_news=is_news) as session:
                leases.renew(session, self._lease, seconds=self._seconds, progress=progress if is_news else None)
        self._stop_others_if_spent()

    @contextmanager
    def _charging(self, *, is_news: bool) -> Iterator[Session]:
        """Yield a writing transaction that ends by charging the time since the last one that did not fail.

        ``is_news``: whether it changes more than the time, so that users are to look again.
        """
        now = time.monotonic()
        with self._runtime.database.write() as session:
            yield session
            if self._lease.kind in _CHARGED:
                # A lease is renewed, and charged, before it runs out: time beyond it was slept through, not worked.
                worked = 0.0 if self._waits else min(now - self._charged_at, self._seconds)
                self._charge(session, worked, is_news=is_news)
        self._charged_at = now

    def _charge(self, session: Session, worked: float, *, is_news: bool) -> None:
        """Add seconds to what the job has cost."""
        if self._lease.kind is FINETUNE:
            proven = finetunes.charge(session, self._lease.id, worked, is_news=is_news)
            if proven is not None:
                selections.charge(session, proven, worked, is_news=is_news)
            self._charge_day(session, session.get_one(Finetune, self._lease.id).tenant, worked)
            return
        columns = Evaluation.selection_id, Evaluation.tenant
        row = session.execute(select(*columns).where(Evaluation.id == self._lease.id)).one_or_none()
        if row is None:
            return  # deleted with its data set
        spent = selections.charge(session, row.selection_id, worked, is_news=is_news)
        self._has_budget = spent is not None
        if spent:
            self.over_budget.set()
        self._charge_day(session, row.tenant, worked)

    def _charge_day(self, session: Session, tenant: str, worked: float) -> None:
        if worker_seconds.charge(session, tenant, worked) and not self.day_spent.is_set():
            self._waiting_tenant = tenant
            self.day_spent.set()

    def _stop_others_if_spent(self) -> None:
        if self.over_budget.is_set():
            with self._runtime.database.write() as session:
                evaluation = session.get(Evaluation, self._lease.id)
                if evaluation is not None:
                    stop_for_budget(session, evaluation.selection_id)
        if self._waiting_tenant is not None:
            with self._runtime.database.write() as session:
                worker_seconds.warn_of_spent_day(session, self._waiting_tenant)
            self._waiting_tenant = None

    def _patience(self) -> float:
        """Return how long work that is to end may go on."""
        keeps_its_state = self._lease.kind is FINETUNE and not self.over_budget.is_set()
        return _CHECKPOINT_SECONDS if keeps_its_state else _GRACE_SECONDS

    def _stop_or_exit(self) -> None:
        self.lost.set()
        if not self._left.wait(_GRACE_SECONDS):
            self._exit()

    def _put_down_and_exit(self) -> NoReturn:
        """Let the job go before the work that holds it, which can then store nothing more, and end the process."""
        try:
            self.put_down()
            if self._runtime.stopping.is_set():
                with self._runtime.database.write() as session:
                    retire(session, self._runtime.holder)
        except SQLAlchemyError as error:
            # The lease runs out, or this worker's successor frees it.
            log.warning("lease.put_down_failed", job=self._lease.id, error=str(error))
        self._exit()

    def _exit(self) -> NoReturn:
        log.error("lease.work_does_not_stop", kind=self._lease.kind.name, job=self._lease.id)
        os._exit(_EXIT_CODE)
