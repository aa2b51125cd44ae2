"""A question to something that may never answer: asked in a thread, waited for a bounded time."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Answer = TypeVar("Answer")

PATIENCE_SECONDS = 2.0
_FRESH_SECONDS = 1.0
_LOST_SECONDS = 30.0
_MOST_LOST = 3


class Probe(Generic[Answer]):
    """Asks one question at a time, however many want to know; an answer is good for a second.

    What is silent for half a minute is asked once more beside the first time, for a connection may be dead that a new
    one would not be. A few such threads may be left behind, never more.
    """

    def __init__(self, ask: Callable[[], Answer]) -> None:
        """Ask nothing yet."""
        self._ask = ask
        self._begun: list[Future[Answer]] = []
        self._begun_at = 0.0

    def begin(self) -> None:
        """Ask, unless that was done just now."""
        self._latest()

    async def answer(self) -> Answer:
        """Return the answer.

        Raises:
            TimeoutError: there was none two seconds after it was asked.
            Exception: what asking raised.
        """
        waiting = asyncio.wrap_future(self._latest())
        patience = self._begun_at + PATIENCE_SECONDS - time.monotonic()
        done, _ = await asyncio.wait({waiting}, timeout=max(patience, 0))
        if not done:
            waiting.cancel()  # the thread goes on, and whoever asks next waits for it, too
            raise TimeoutError(f"no answer within {PATIENCE_SECONDS:.0f} seconds")
        return waiting.result()

    def _latest(self) -> "Future[Answer]":
        """Return what was begun last, if it is fresh or still awaited; else begin anew."""
        age = time.monotonic() - self._begun_at
        if self._begun:
            latest = self._begun[-1]
            if age < (_FRESH_SECONDS if latest.done() else _LOST_SECONDS):
                return latest
        self._begun = [one for one in self._begun if not one.done()]
        if len(self._begun) >= _MOST_LOST:
            return self._begun[-1]
        self._begun.append(self._begin())
        self._begun_at = time.monotonic()
        return self._begun[-1]

    def _begin(self) -> "Future[Answer]":
        asked: Future[Answer] = Future()
        asked.set_running_or_notify_cancel()  # from here on, nobody who stops waiting can cancel it

        def run() -> None:
            try:
                answer = self._ask()
            except Exception as error:  # noqa: BLE001  (raised where the answer is waited for)
                asked.set_exception(error)
            else:
                asked.set_result(answer)

        # A daemon, for the process must not wait for an answer that never comes.
        threading.Thread(target=run, name="probe", daemon=True).start()
        return asked
