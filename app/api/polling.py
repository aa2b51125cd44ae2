"""How a job is polled: an ETag for what is known already, ``?wait=`` for not asking again and again."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated

from fastapi import Header, Query, Response
from starlette.concurrency import run_in_threadpool

IfNoneMatch = Annotated[
    str | None, Header(description="The ETag of the state that you know: the answer is 304 while it holds.")
]
Wait = Annotated[
    float,
    Query(
        ge=0,
        le=30,
        description="Seconds to hold the answer: with If-None-Match until a change, else until the job has ended.",
    ),
]

_LOOK_EVERY_SECONDS = 0.1


def etag(revision: int) -> str:
    """Return the entity tag of a revision."""
    return f'"r{revision}"'


class RecentAnswers:
    """The last answer about each job, as text: polls between two changes of a job get the same one."""

    _MOST = 1024

    def __init__(self) -> None:
        """Know none."""
        self._answers: OrderedDict[str, tuple[int, str]] = OrderedDict()

    def find(self, job_id: str, revision: int) -> str | None:
        """Return the answer about a job at this revision, if it was given lately."""
        known, body = self._answers.get(job_id, (None, None))
        return body if known == revision else None

    def remember(self, job_id: str, revision: int, body: str) -> None:
        """Keep an answer in place of the job's earlier one."""
        self._answers[job_id] = (revision, body)
        self._answers.move_to_end(job_id)
        while len(self._answers) > self._MOST:
            self._answers.popitem(last=False)


def answer(body: str, revision: int) -> Response:
    """Return the answer to a poll, written once: polls are most of what a service answers."""
    return Response(body, media_type="application/json", headers={"ETag": etag(revision)})


def is_known(revision: int, known: str | None) -> bool:
    """Tell whether a caller's If-None-Match names this revision."""
    return known is not None and (known.strip() == "*" or etag(revision) in known)


def not_modified(revision: int) -> Response:
    """Return the answer to a caller who knows this revision already."""
    return Response(status_code=304, headers={"ETag": etag(revision)})


async def wait_for_news(look: Callable[[], tuple[int, bool]], known: str | None, seconds: float) -> int | None:
    """Hold until a job has news for the caller, or ``seconds`` are over.

    Args:
        look: returns the job's revision and whether it has ended; runs in a thread.
        known: the caller's If-None-Match, if any.
        seconds: how long to hold.

    Returns:
        The revision when the caller knows it already (answer 304), else None.
    """
    deadline = time.monotonic() + seconds
    while True:
        revision, ended = await run_in_threadpool(look)
        knows = is_known(revision, known)
        has_news = not knows if known is not None else ended
        remaining = deadline - time.monotonic()
        if has_news or ended or remaining <= 0:
            return revision if knows else None
        await asyncio.sleep(min(_LOOK_EVERY_SECONDS, remaining))
