"""Who is asking, and what the routes work with: the service's parts and the caller behind an API key.

These dependencies are coroutines: FastAPI runs plain functions in a thread each, which costs more than they do.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

from anyio import CapacityLimiter
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from app.api.changes import Changes
from app.api.rate_limits import RateLimits
from app.api.recent_answers import RecentAnswers
from app.api.recent_callers import Caller, LastUses, RecentCallers
from app.bell import Bell
from app.config import Settings
from app.domain.errors import Forbidden, Unauthorized
from app.storage.database import Database
from app.storage.objects import Objects
from app.storage.repositories.keys import Keys

Scope = Literal["read", "write", "admin"]

_UPLOAD_WRITERS = 16
"""Threads that write uploads: however slow the object store is, all other requests keep theirs."""


@dataclass(frozen=True)
class Service:
    """The parts every route works with."""

    settings: Settings
    database: Database
    objects: Objects
    bell: Bell
    rate_limits: RateLimits
    last_uses: LastUses
    changes: Changes
    recent_callers: RecentCallers = field(default_factory=RecentCallers)
    recent_answers: RecentAnswers = field(default_factory=RecentAnswers)
    upload_writers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_UPLOAD_WRITERS))


async def service_of(request: Request) -> Service:
    """Return the parts of the service that answers this request."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(service_of)]

_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer ft_...`")


async def known_caller(
    request: Request,
    service: ServiceDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    """Return whose key a request came with, and count the request.

    Raises:
        Unauthorized: ``missing_key``, ``invalid_key`` or ``expired_key``.
        Forbidden: ``tenant_suspended``.
        TooManyRequests: ``rate_limited``.
    """
    if credentials is None:
        raise Unauthorized(
            "missing_key",
            "The request carries no API key.",
            hint="Send `Authorization: Bearer <key>`.",
        )
    key = credentials.credentials
    caller = service.recent_callers.find(key)
    if caller is None:
        address = request.client.host if request.client else "unknown"
        if not service.recent_callers.has_met(key):  # who shares an address with a guesser is not locked out with him
            await service.rate_limits.refuse_guessing(address)
        try:
            caller = await run_in_threadpool(_authenticate, service, key)
        except Unauthorized:
            service.recent_callers.forget(key)
            await service.rate_limits.count_failure(address)
            raise
    service.last_uses.note(caller.key_id)
    await service.rate_limits.spend(request, caller.key_id)
    return caller


AnyCaller = Annotated[Caller, Depends(known_caller)]


def _caller_with(scope: Scope) -> Callable[..., Awaitable[Caller]]:
    async def caller(known: AnyCaller) -> Caller:
        if not known.scopes & {scope, "admin"}:
            raise Forbidden(
                "missing_scope",
                f"This API key lacks the scope {scope!r}; it has {', '.join(sorted(known.scopes))}.",
                hint="Ask an admin for a key with that scope: POST /v1/keys.",
            )
        return known

    return caller


def _authenticate(service: Service, key: str) -> Caller:
    with service.database.read() as session:
        known = Keys(session, service.settings.secret_bytes).authenticate(key)
    row = known.row
    actor = f"{row.user}: {row.name} ({row.id})" if row.user else f"{row.name} ({row.id})"
    caller = Caller(row.id, row.tenant, frozenset(row.scopes), actor, known.until, known.is_previous)
    service.recent_callers.remember(key, caller)
    return caller


Reader = Annotated[Caller, Depends(_caller_with("read"))]
Writer = Annotated[Caller, Depends(_caller_with("write"))]
Admin = Annotated[Caller, Depends(_caller_with("admin"))]
