"""How a job is polled: an ETag for what is known already, ``?wait=`` for not asking again and again."""

import time
from collections.abc import Callable
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Header, Query, Response
from pydantic import BaseModel
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api.access import Service

IfNoneMatch = Annotated[
    str | None, Header(description="The ETag of the state that you know: the answer is 304 while it holds.")
]
Wait = Annotated[
    float,
    Query(
        ge=0,
        le=30,
        allow_inf_nan=False,
        description="Seconds to hold the answer: with If-None-Match until a change, else until the job has ended.",
    ),
]
Row = TypeVar("Row")
Row_co = TypeVar("Row_co", covariant=True)

_ETAG = {"ETag": {"description": "Names this state.", "required": True, "schema": {"type": "string"}}}
WITH_ETAG: dict[int | str, dict[str, Any]] = {
    200: {"headers": _ETAG},
    304: {"description": "The state is still the one that If-None-Match names", "headers": _ETAG},
}
"""How the answers to a poll are documented."""

_LOCATION = {"description": "Where it can be polled.", "required": True, "schema": {"type": "string"}}
_RETRY_AFTER = {"description": "Seconds until that is worth it.", "required": True, "schema": {"type": "integer"}}
ASKED_FOR: dict[int | str, dict[str, Any]] = {202: {"headers": {"Location": _LOCATION, "Retry-After": _RETRY_AFTER}}}
"""How the answer is documented that takes a job on."""


def known_already(model: type[BaseModel], description: str) -> dict[int | str, dict[str, Any]]:
    """Return how the two answers are documented: of what is taken on, and of what was asked for before."""
    return {**ASKED_FOR, 200: {"model": model, "description": description, "headers": {"Location": _LOCATION}}}


class Jobs(Protocol[Row_co]):
    """The repository of one kind of job, for one tenant."""

    def revision(self, job_id: str, /) -> tuple[int, bool]:
        """Return a job's revision and whether it is the last one."""

    def get(self, job_id: str, /) -> Row_co:
        """Return one job."""


class View(Protocol):
    """A job as users see it."""

    revision: int

    def model_dump_json(self) -> str:
        """Return it as JSON."""


def etag(revision: int) -> str:
    """Return the entity tag of a revision."""
    return f'"r{revision}"'


def is_known(revision: int, known: str | None) -> bool:
    """Tell whether a caller's If-None-Match names this revision."""
    return known is not None and (known.strip() == "*" or etag(revision) in known)


def not_modified(revision: int) -> Response:
    """Return the answer to a caller who knows this revision already."""
    return Response(status_code=304, headers={"ETag": etag(revision)})


def point_to_job(response: Response, status: int, path: str, *, retry_after: int = 1) -> None:
    """Say of a job that was asked for where it can be polled, and when that is worth it if it is new."""
    response.status_code = status
    response.headers["Location"] = path
    if status == 202:
        response.headers["Retry-After"] = str(retry_after)


async def answer_poll(
    service: Service,
    open_jobs: Callable[[Session], Jobs[Row]],
    job_id: str,
    view: Callable[[Session, Row], View],
    *,
    known: str | None,
    wait: float,
    shown_as: str = "",
) -> Response:
    """Answer a poll of one job: 304 if the caller knows its state, else the job.

    The body is written here and once for each revision: polls are most of what a service answers.

    Args:
        service: whose database has the job.
        open_jobs: returns the repository of the caller's jobs of this kind.
        job_id: the job.
        view: returns the job as users see it; its revision changes with everything that it shows.
        known: the caller's If-None-Match, if any.
        wait: seconds to hold the answer.
        shown_as: tells callers apart to whom ``view`` shows a job differently.

    Raises:
        NotFound: the caller has no such job.
    """

    def look() -> tuple[int, bool]:
        with service.database.read() as session:
            return open_jobs(session).revision(job_id)

    def tell() -> Response:
        with service.database.read() as session:
            jobs = open_jobs(session)
            revision, _ = jobs.revision(job_id)
            if is_known(revision, known):
                return not_modified(revision)
            body = service.recent_answers.find(job_id + shown_as, revision)
            if body is None:
                job = view(session, jobs.get(job_id))
                revision, body = job.revision, job.model_dump_json()
                service.recent_answers.remember(job_id + shown_as, revision, body)
        return Response(body, media_type="application/json", headers={"ETag": etag(revision)})

    if wait:
        await _hold(service, job_id, look, known, wait)
    return await run_in_threadpool(tell)


async def _hold(
    service: Service, job_id: str, look: Callable[[], tuple[int, bool]], known: str | None, seconds: float
) -> None:
    """Hold until a job has ended or, for a caller who knows a state of it, has news; or ``seconds`` are over."""
    deadline, mark = time.monotonic() + seconds, None
    while True:
        revision, ended = await run_in_threadpool(look)
        has_news = known is not None and not is_known(revision, known)
        remaining = deadline - time.monotonic()
        if has_news or ended or remaining <= 0:
            return
        mark = await service.changes.after(mark, job_id, remaining)
