"""What a worker does with its job while the object store or the database is out: it waits, and nothing is counted.

An outage is the service's own failure, not the job's. A job that met one is put back into the queue when it is over,
however often and however long that was. What cannot be told from a failure of the job's own, because all others are
served, spends the budget of its error's code.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.domain.errors import Unavailable
from app.storage.leases import LeaseLost
from app.storage.objects import Objects
from app.storage.outage import is_away, is_in_trouble
from workers.lease import HeldLease

log = structlog.get_logger()

Answer = TypeVar("Answer")

WAITING_FOR_STORE = {
    "storage_unavailable": "waiting for the object store",
    "storage_full": "waiting for room in the object store",
}
"""The stages that users see, by the error that the store met."""

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0
_LOOK_EVERY_SECONDS = 0.2
_CHECK_BYTES = {"storage_unavailable": 1 << 20, "storage_full": 16 << 20}
"""What a store has to take until a job is put back: that it still takes a byte would help nobody."""
_TRY_AGAIN_SECONDS = 2.0
"""Failures that count are so far apart, at least: else a job would spend its budget within a moment."""


def outlast_store(objects: Objects, held: HeldLease, error: Unavailable) -> bool:
    """Wait until the object store answers again, as long as the job is this worker's.

    Args:
        objects: the store.
        held: the job; its user sees what it waits for, and is charged nothing meanwhile.
        error: what the work has met, ``storage_unavailable`` or ``storage_full``.

    Returns:
        False where the store answers at once: the failure was the job's own, and counts. True when it was out and
        answers again, or the job is to be put down.

    Raises:
        LeaseLost: the job was cancelled, or is another worker's.
    """
    size = _CHECK_BYTES[error.code]
    if _answers(objects, held, size):
        return _sleeps_until_told(held, _TRY_AGAIN_SECONDS)
    began_at = time.monotonic()
    log.warning("job.waits", on="objects", code=error.code)
    with held.waiting(WAITING_FOR_STORE[error.code]):
        for pause in growing_pauses():
            if _sleeps_until_told(held, pause) or _answers(objects, held, size):
                break
    log.info("job.waited", on="objects", seconds=round(time.monotonic() - began_at, 1))
    return True


def wait_for_database(stopping: threading.Event, work: Callable[[], None]) -> None:
    """Do what holds no job, again and again until the database lets it or the process is to end.

    Raises:
        SQLAlchemyError: something is wrong, and would be each time.
    """
    for pause in growing_pauses():
        try:
            return work()
        except SQLAlchemyError as error:
            if not (is_away(error) or is_in_trouble(error)):
                raise
            log.warning("worker.waits", on="database", error=str(error.__cause__ or error))
        if stopping.wait(pause):
            return None
    return None


def once_database_answers(held: HeldLease, step: Callable[[], Answer]) -> Answer:
    """Carry out a step that ends a job, again and again until the database lets it.

    A worker that is to stop is ended in the middle of this by the watch over its lease.

    Raises:
        LeaseLost: the lease has run out meanwhile; a sweep puts the job back.
        SQLAlchemyError: the step is wrong, and would be each time.
    """
    for pause in growing_pauses():
        try:
            return step()
        except SQLAlchemyError as error:
            if not (is_away(error) or is_in_trouble(error)):
                raise
            log.warning("job.waits", on="database", error=str(error.__cause__ or error))
        if held.lost.wait(pause):
            break
    raise LeaseLost("The database did not answer before the lease ran out.")


def _answers(objects: Objects, held: HeldLease, size: int) -> bool:
    """Tell whether the store takes so many bytes; False as soon as the job is to be put down, even if it is silent."""
    refused: list[Exception] = []

    def ask() -> None:
        try:
            objects.check(size)
        except (Unavailable, OSError) as error:
            refused.append(error)

    asking = threading.Thread(target=ask, name="store-check", daemon=True)
    asking.start()
    while asking.is_alive():
        if held.should_stop():
            return False
        asking.join(_LOOK_EVERY_SECONDS)
    return not refused


def _sleeps_until_told(held: HeldLease, seconds: float) -> bool:
    """Sleep, and tell whether the job is to be put down."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if held.should_stop():
            return True
        held.lost.wait(min(left, _LOOK_EVERY_SECONDS))
    return held.should_stop()


def growing_pauses() -> Iterator[float]:
    """Return growing pauses without an end, which differ between workers that met the same outage."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause * random.uniform(0.7, 1.3)  # noqa: S311  (no secret)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
