"""Holding a job while working on it: a thread renews the lease, and stops the work when the job is lost."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.storage import leases
from app.storage.leases import EVALUATION, FINETUNE, Lease, LeaseLost
from app.storage.repositories import finetunes
from app.storage.repositories.selections import is_spent, stop_for_budget, touch
from app.storage.tables import Evaluation
from workers.runtime import Runtime

log = structlog.get_logger()

_REPORT_EVERY_SECONDS = 0.5
_GRACE_SECONDS = 10.0
_EXIT_CODE = 75
_CHARGED = (EVALUATION, FINETUNE)


class HeldLease:
    """A context in which a job is this worker's.

    ``should_stop`` turns true when the selection's budget is spent or the process is to end, and raises ``LeaseLost``
    once the job is another's or was cancelled: work that keeps its state for a successor when it is interrupted must
    not do so then. Work that does not stop within ten seconds after a lost lease would hold the GPU for nothing: the
    process then exits, and the supervisor starts a fresh one.

    The time that an evaluation is held is charged to its selection; that of a fine-tune to itself, and to the selection
    that it proves.

    Attributes:
        lost: the lease is another's, or the job was cancelled.
        over_budget: the selection's worker time is spent.
    """

    def __init__(self, runtime: Runtime, lease: Lease) -> None:
        """Watch over ``lease``; the watch begins with the context."""
        self.lost = threading.Event()
        self.over_budget = threading.Event()
        self._runtime = runtime
        self._lease = lease
        self._seconds = runtime.settings.lease_seconds
        self._progress: dict[str, object] | None = None
        self._charged_at = time.monotonic()
        self._has_budget = False
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"lease-{lease.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()
        if self._lease.kind in _CHARGED:
            try:
                with self._charging():
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
        return self.over_budget.is_set() or self._runtime.stopping.is_set()

    def report(self, stage: str, done: int, total: int) -> None:
        """Note how far the work has come; users see it within a second."""
        self._progress = {"stage": stage, "done": done, "total": total}

    def _watch(self) -> None:
        renewed_at = time.monotonic()
        reported: dict[str, object] | None = None
        while not self._left.wait(min(_REPORT_EVERY_SECONDS, self._seconds / 4)):
            progress = self._progress
            is_due = self._has_budget or time.monotonic() - renewed_at > self._seconds / 4
            if progress == reported and not is_due:
                continue
            try:
                self._renew(progress)
            except LeaseLost:
                log.warning("lease.lost", kind=self._lease.kind.name, job=self._lease.id)
                self._stop_or_exit()
                return
            except SQLAlchemyError as error:
                log.warning("lease.renew_failed", job=self._lease.id, error=str(error))
                if time.monotonic() - renewed_at > self._seconds:
                    self._stop_or_exit()
                    return
                continue
            renewed_at, reported = time.monotonic(), progress

    def _renew(self, progress: dict[str, object] | None) -> None:
        with self._charging() as session:
            leases.renew(session, self._lease, seconds=self._seconds, progress=progress)
        self._stop_others_if_spent()

    @contextmanager
    def _charging(self) -> Iterator[Session]:
        """Yield a writing transaction that ends by charging the time since the last one that did not fail."""
        now = time.monotonic()
        with self._runtime.database.write() as session:
            yield session
            if self._lease.kind in _CHARGED:
                # A lease is renewed, and charged, before it runs out: time beyond it was slept through, not worked.
                self._charge(session, min(now - self._charged_at, self._seconds))
        self._charged_at = now

    def _charge(self, session: Session, worked: float) -> None:
        """Add seconds to what the job has cost."""
        if self._lease.kind is FINETUNE:
            proven = finetunes.charge(session, self._lease.id, worked)
            if proven is not None:
                touch(session, proven, spent_seconds=worked)
            return
        evaluation = session.get(Evaluation, self._lease.id)
        if evaluation is None:
            return  # deleted with its data set
        touch(session, evaluation.selection_id, spent_seconds=worked)
        spent = is_spent(session, evaluation.selection_id)
        self._has_budget = spent is not None
        if spent:
            self.over_budget.set()

    def _stop_others_if_spent(self) -> None:
        if self.over_budget.is_set():
            with self._runtime.database.write() as session:
                evaluation = session.get(Evaluation, self._lease.id)
                if evaluation is not None:
                    stop_for_budget(session, evaluation.selection_id)

    def _stop_or_exit(self) -> None:
        self.lost.set()
        if not self._left.wait(_GRACE_SECONDS):
            log.error("lease.work_does_not_stop", kind=self._lease.kind.name, job=self._lease.id)
            os._exit(_EXIT_CODE)
