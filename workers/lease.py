"""Holding a job while working on it: a thread renews the lease, and stops the work when the job is lost."""

import os
import threading
import time
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.storage import leases
from app.storage.leases import EVALUATION, Lease, LeaseLost
from app.storage.repositories.selections import touch
from app.storage.tables import Evaluation
from workers.runtime import Runtime

log = structlog.get_logger()

_REPORT_EVERY_SECONDS = 0.5
_GRACE_SECONDS = 10.0
_EXIT_CODE = 75


class HeldLease:
    """A context in which a job is this worker's.

    ``should_stop`` turns true when the lease was lost, the job was cancelled, or the process is to end. Work that does
    not stop within ten seconds after a lost lease would hold the GPU for nothing: the process then exits, and the
    supervisor starts a fresh one.
    """

    def __init__(self, runtime: Runtime, lease: Lease) -> None:
        """Watch over ``lease``; the watch begins with the context."""
        self.lost = threading.Event()
        self._runtime = runtime
        self._lease = lease
        self._seconds = runtime.settings.lease_seconds
        self._progress: dict[str, object] | None = None
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

    def should_stop(self) -> bool:
        """Tell whether the work must end; asked between batches."""
        return self.lost.is_set() or self._runtime.stopping.is_set()

    def report(self, stage: str, done: int, total: int) -> None:
        """Note how far the work has come; users see it within a second."""
        self._progress = {"stage": stage, "done": done, "total": total}

    def _watch(self) -> None:
        renewed_at = time.monotonic()
        reported: dict[str, object] | None = None
        while not self._left.wait(min(_REPORT_EVERY_SECONDS, self._seconds / 4)):
            progress = self._progress
            is_due = time.monotonic() - renewed_at > self._seconds / 4
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
        with self._runtime.database.write() as session:
            leases.renew(session, self._lease, seconds=self._seconds, progress=progress)
            if self._lease.kind is EVALUATION:
                evaluation = session.get_one(Evaluation, self._lease.id)
                touch(session, evaluation.selection_id)

    def _stop_or_exit(self) -> None:
        self.lost.set()
        if not self._left.wait(_GRACE_SECONDS):
            log.error("lease.work_does_not_stop", kind=self._lease.kind.name, job=self._lease.id)
            os._exit(_EXIT_CODE)
