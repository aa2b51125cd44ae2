"""Doing things at the same moment."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Outcome = TypeVar("Outcome")


def race(*actions: Callable[[], Outcome]) -> list[Outcome]:
    """Run every action in a thread of its own, all from the same moment on; return what they returned, in order."""
    barrier = threading.Barrier(len(actions))

    def run(action: Callable[[], Outcome]) -> Outcome:
        barrier.wait()
        return action()

    with ThreadPoolExecutor(len(actions)) as threads:
        return list(threads.map(run, actions))
