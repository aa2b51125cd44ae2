"""Waiting for a job to change: one look for all who wait, ten times a second, however many they are."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from app.storage.database import Database
from app.storage.repositories.revisions import Mark, read_marks

_LOOK_EVERY_SECONDS = 0.1
_GONE: Mark = ()
_REST = 4
"""How many times as long as a look took it is rested at least: thousands who wait take a fifth of a thread."""


@dataclass(eq=False)
class _Waiter:
    seen: Mark | None
    changed: "asyncio.Future[Mark]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Changes:
    """Looks after jobs while somebody waits for them, and at nothing while nobody does."""

    def __init__(self, database: Database) -> None:
        """Look at nothing yet."""
        self._database = database
        self._waiters: dict[str, set[_Waiter]] = {}
        self._watch: asyncio.Task[None] | None = None

    async def after(self, seen: Mark | None, job_id: str, seconds: float) -> Mark | None:
        """Wait until a job's mark is another one than ``seen``; return it, or ``seen`` after so many seconds.

        Without ``seen``, the first look from now on ends the wait. A change that comes after that look gives another
        mark, so that whoever then reads the job and waits again misses nothing.

        Raises:
            Exception: what looking raised, as when the database is down.
        """
        waiter = _Waiter(seen)
        self._waiters.setdefault(job_id, set()).add(waiter)
        if self._watch is None:
            self._watch = asyncio.create_task(self._look_again_and_again())
        try:
            async with asyncio.timeout(seconds):
                return await waiter.changed
        except TimeoutError:
            return seen
        finally:
            self._waiters[job_id].discard(waiter)
            if not self._waiters[job_id]:
                del self._waiters[job_id]

    async def _look_again_and_again(self) -> None:
        pause = _LOOK_EVERY_SECONDS
        try:
            while self._waiters:
                await asyncio.sleep(pause)
                job_ids, started = list(self._waiters), time.monotonic()
                try:
                    marks = await run_in_threadpool(self._look, job_ids)
                except Exception as error:  # noqa: BLE001  (each who waits answers it as if the look were its own)
                    for _, waiter in self._waiting_for(job_ids):
                        waiter.changed.set_exception(error)
                else:
                    for job_id, waiter in self._waiting_for(job_ids):
                        if (mark := marks.get(job_id, _GONE)) != waiter.seen:
                            waiter.changed.set_result(mark)
                pause = max(_LOOK_EVERY_SECONDS, _REST * (time.monotonic() - started))
        finally:
            self._watch = None

    def _look(self, job_ids: Sequence[str]) -> dict[str, Mark]:
        with self._database.read() as session:
            return read_marks(session, job_ids)

    def _waiting_for(self, job_ids: Sequence[str]) -> Iterator[tuple[str, _Waiter]]:
        for job_id in job_ids:
            for waiter in self._waiters.get(job_id, ()):
                if not waiter.changed.done():
                    yield job_id, waiter
