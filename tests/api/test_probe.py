"""Asking something that may never answer."""

import asyncio
import threading
import time

import pytest

from app.api.probe import Probe


async def ask(probe: Probe[int]) -> int | str:
    try:
        return await probe.answer()
    except TimeoutError as silent:
        return str(silent)


def test_callers_at_the_same_time_share_one_question() -> None:
    asked = []

    def slow() -> int:
        time.sleep(0.1)
        asked.append(1)
        return len(asked)

    async def many() -> list[int | str]:
        probe = Probe(slow)
        return [*await asyncio.gather(*(ask(probe) for _ in range(20))), await ask(probe)]

    assert asyncio.run(many()) == [1] * 21


def test_silence_ends_after_two_seconds_and_takes_one_thread() -> None:
    speaking = threading.Event()

    async def silence() -> tuple[list[int | str], float, int, int | str]:
        probe = Probe(lambda: int(speaking.wait(30)))
        started, threads = time.monotonic(), threading.active_count()
        answers = await asyncio.gather(*(ask(probe) for _ in range(50)))
        waited, more = time.monotonic() - started, threading.active_count() - threads
        speaking.set()
        await asyncio.sleep(0.1)
        return answers, waited, more, await ask(probe)

    answers, waited, threads, later = asyncio.run(silence())
    assert set(answers) == {"no answer within 2 seconds"}
    assert 1.9 < waited < 4
    assert threads <= 1
    assert later == 1


def test_an_error_is_raised_where_the_answer_is_waited_for() -> None:
    def broken() -> int:
        raise ConnectionError("refused")

    with pytest.raises(ConnectionError, match="refused"):
        asyncio.run(Probe(broken).answer())
