"""Waiting for a job by long polling, and going through the pages of a list."""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from app.client.connection import Connection
from app.client.errors import JobFailed, WaitTimedOut
from app.client.resources import Item, Job, ListOf

AnyJob = TypeVar("AnyJob", bound=Job)

_HOLD_SECONDS = 20.0  # how long the service is asked to hold one answer


def wait_for(
    connection: Connection,
    path: str,
    kind: type[AnyJob],
    *,
    timeout: float | None,
    on_change: Callable[[AnyJob], None] | None,
) -> AnyJob:
    """Return the job at ``path`` once it has ended.

    Args:
        connection: to the service; a restart of the service within a minute is waited out.
        path: of the job.
        kind: its class.
        timeout: seconds to wait; None waits as long as it takes.
        on_change: called with the job at once and whenever its revision has grown.

    Raises:
        JobFailed: it ended with an error.
        WaitTimedOut: it has not ended in time.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    job = _see(connection.get(path, kind), on_change)
    while not job.has_ended:
        remaining = _HOLD_SECONDS if deadline is None else deadline - time.monotonic()
        if remaining <= 0:
            raise WaitTimedOut(job.id, job.status, timeout or 0.0)
        known = {"If-None-Match": f'"r{job.revision}"'}
        wait = {"wait": round(min(remaining, _HOLD_SECONDS), 3)}
        response = connection.send("GET", path, params=wait, headers=known, patient=True)
        if response.status_code != 304:
            job = _see(connection.read(response, kind), on_change)
    if job.error is not None:
        raise JobFailed(job.error.code, job.error.message, param=job.error.param, hint=job.error.hint)
    return job


def _see(job: AnyJob, on_change: Callable[[AnyJob], None] | None) -> AnyJob:
    if on_change is not None:
        on_change(job)
    return job


def every(connection: Connection, path: str, kind: type[Item], **params: Any) -> Iterator[Item]:
    """Yield every entry of a list, newest first, fetching pages as they are needed."""
    cursor: str | None = None
    while True:
        page = connection.get(path, ListOf[kind], after=cursor, limit=200, **params)  # type: ignore[valid-type]
        yield from page.data
        cursor = page.next_cursor
        if cursor is None:
            return
