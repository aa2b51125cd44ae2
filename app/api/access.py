"""Who is asking, and what the routes work with: the service's parts and the caller behind an API key.

These dependencies are coroutines: FastAPI runs plain functions in a thread each, which costs more than they do.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from app.api.recent_answers import RecentAnswers
from app.bell import Bell
from app.config import Settings
from app.domain.errors import Forbidden, Unauthorized
from app.storage.database import Database
from app.storage.objects import Objects
from app.storage.repositories.keys import Keys

Scope = Literal["read", "write", "admin"]


@dataclass(frozen=True)
class Caller:
    """The tenant and scopes of the key a request came with; ``actor`` names the key in the audit log."""

    tenant: str
    scopes: frozenset[str]
    actor: str


class RecentCallers:
    """Keys that were good a moment ago: a client that polls is not looked up in the database every time.

    This process forgets all of them when it revokes a key; another one accepts a revoked key for one more second.
    """

    SECONDS = 1.0
    _MOST = 4096

    def __init__(self) -> None:
        """Know nobody."""
        self._known: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    def find(self, key: str) -> Caller | None:
        """Return who has this key, if it was found good within the last second."""
        until, caller = self._known.get(_fingerprint(key), (0.0, None))
        return caller if time.monotonic() < until else None

    def remember(self, key: str, caller: Caller) -> None:
        """Note that a key is good now."""
        self._known[_fingerprint(key)] = (time.monotonic() + self.SECONDS, caller)
        while len(self._known) > self._MOST:
            self._known.popitem(last=False)

    def forget(self) -> None:
        """Ask the database about every key again."""
        self._known.clear()


def _fingerprint(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


@dataclass(frozen=True)
class Service:
    """The parts every route works with."""

    settings: Settings
    database: Database
    objects: Objects
    bell: Bell
    recent_callers: RecentCallers = field(default_factory=RecentCallers)
    recent_answers: RecentAnswers = field(default_factory=RecentAnswers)


async def service_of(request: Request) -> Service:
    """Return the parts of the service that answers this request."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(service_of)]

_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer ft_...`")


def _caller_with(scope: Scope) -> Callable[..., Awaitable[Caller]]:
    async def caller(
        service: ServiceDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Caller:
        if credentials is None:
            raise Unauthorized(
                "missing_key",
                "The request carries no API key.",
                hint="Send `Authorization: Bearer <key>`.",
            )
        known = service.recent_callers.find(credentials.credentials)
        if known is None:
            known = await run_in_threadpool(_authenticate, service, credentials.credentials)
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
        row = Keys(session, service.settings.secret_bytes).authenticate(key)
    caller = Caller(row.tenant, frozenset(row.scopes), actor=f"{row.name} ({row.id})")
    service.recent_callers.remember(key, caller)
    return caller


Reader = Annotated[Caller, Depends(_caller_with("read"))]
Writer = Annotated[Caller, Depends(_caller_with("write"))]
Admin = Annotated[Caller, Depends(_caller_with("admin"))]
