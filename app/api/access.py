"""Who is asking, and what the routes work with: the service's parts and the caller behind an API key."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.bell import Bell
from app.config import Settings
from app.domain.errors import Forbidden, Unauthorized
from app.storage.database import Database
from app.storage.objects import Objects
from app.storage.repositories.keys import Keys

Scope = Literal["read", "write", "admin"]


@dataclass(frozen=True)
class Service:
    """The parts every route works with."""

    settings: Settings
    database: Database
    objects: Objects
    bell: Bell


@dataclass(frozen=True)
class Caller:
    """The tenant and scopes of the key a request came with."""

    tenant: str
    scopes: frozenset[str]


def service_of(request: Request) -> Service:
    """Return the parts of the service that answers this request."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(service_of)]

_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer ft_...`")


def _caller_with(scope: Scope) -> Callable[..., Caller]:
    def caller(
        service: ServiceDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Caller:
        if credentials is None:
            raise Unauthorized(
                "missing_key",
                "The request carries no API key.",
                hint="Send `Authorization: Bearer <key>`.",
            )
        with service.database.read() as session:
            key = Keys(session, service.settings.secret_bytes).authenticate(credentials.credentials)
        if scope not in key.scopes and "admin" not in key.scopes:
            raise Forbidden(
                "missing_scope",
                f"This API key lacks the scope {scope!r}; it has {', '.join(key.scopes)}.",
                hint="Ask an admin for a key with that scope: POST /v1/keys.",
            )
        return Caller(key.tenant, frozenset(key.scopes))

    return caller


Reader = Annotated[Caller, Depends(_caller_with("read"))]
Writer = Annotated[Caller, Depends(_caller_with("write"))]
Admin = Annotated[Caller, Depends(_caller_with("admin"))]
