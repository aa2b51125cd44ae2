"""/v1/keys: API keys. A key is shown when it is made or rotated, and never again."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError
from sqlalchemy.orm import Session

from app.api.access import Admin, AnyCaller, Scope, Service, ServiceDep
from app.api.envelopes import After, Limit, ListOf, Name, StrictModel
from app.api.problems import responses
from app.api.recent_callers import Caller
from app.api.tenants import TenantName
from app.domain.errors import Forbidden
from app.storage.repositories.keys import Keys, key_not_found
from app.storage.repositories.tenants import Tenants
from app.storage.tables import ApiKey, now

router = APIRouter(tags=["keys"])

_MOST_GRACE_HOURS = 30 * 24


def _later(value: Any) -> datetime:
    """Return a moment that is to come, which the request gives as a text."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise PydanticCustomError("moment", "Not a moment with its time zone, such as 2027-01-31T12:00:00Z")
    if moment <= now():
        raise PydanticCustomError("moment", "The moment has passed")
    return moment


class KeyRequest(StrictModel):
    """A key to be made."""

    name: Name = Field(description="What it is for.")
    scopes: list[Scope] = Field(default=["read", "write"], min_length=1)
    tenant: TenantName | None = Field(
        default=None, description="Whose data sets and selections it sees; without it, the caller's own."
    )
    user: Name | None = Field(default=None, description="Who will use it: a person's e-mail address, or a program.")
    expires_at: Annotated[datetime, BeforeValidator(_later, json_schema_input_type=datetime)] | None = Field(
        default=None, description="When it ends by itself; without it, never."
    )


class Rotation(StrictModel):
    """How to replace a secret."""

    grace_hours: float = Field(
        default=24, ge=0, le=_MOST_GRACE_HOURS, description="How long the secret before is good for yet."
    )


class KeyView(BaseModel):
    """A key as it can be listed."""

    id: str
    object: str = "key"
    name: str
    user: str | None
    tenant: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    rotated_at: datetime | None
    previous_until: datetime | None = Field(description="Until when the secret before the rotation is good.")
    last_used_at: datetime | None = Field(description="To the minute.")


class NewKey(KeyView):
    """A key with its text, which is shown once."""

    key: str


def view(row: ApiKey) -> KeyView:
    """Return a row as it can be listed."""
    return KeyView(
        id=row.id,
        name=row.name,
        user=row.user,
        tenant=row.tenant,
        prefix=f"ft_{row.prefix}",
        scopes=row.scopes,
        created_at=row.created_at,
        expires_at=row.expires_at,
        rotated_at=row.rotated_at,
        previous_until=row.previous_until,
        last_used_at=row.last_used_at,
    )


@router.post("/v1/keys", status_code=201, summary="Make a key", responses=responses(400, 401, 403, 413, 422))
def create_key(request: KeyRequest, service: ServiceDep, caller: Admin) -> NewKey:
    """Make a key, and its tenant if this is its first one; keep the answer, for the key cannot be read again."""
    tenant = request.tenant or caller.tenant
    with service.database.write() as session:
        Tenants(session, actor=caller.actor).ensure(tenant, service.settings.tenant_quotas)
        row, text = _keys(session, service, caller).create(
            tenant=tenant,
            name=request.name,
            scopes=sorted(set(request.scopes)),
            user=request.user,
            expires_at=request.expires_at,
        )
    return NewKey(**view(row).model_dump(), key=text)


@router.get("/v1/keys", summary="List keys, newest first", responses=responses(401, 403, 422))
def list_keys(
    service: ServiceDep,
    caller: Admin,
    tenant: Annotated[str | None, Query(description="Only those of this tenant.")] = None,
    user: Annotated[str | None, Query(description="Only those of this user.")] = None,
    limit: Limit = 50,
    after: After = None,
) -> ListOf[KeyView]:
    """List the keys of all tenants that were not revoked; those that have expired, too."""
    with service.database.read() as session:
        page = Keys(session, service.settings.secret_bytes).page(limit=limit, cursor=after, tenant=tenant, user=user)
    return ListOf.of(page, view)


@router.get("/v1/keys/{key_id}", summary="Read a key", responses=responses(401, 403, 404, 422))
def get_key(key_id: str, service: ServiceDep, caller: AnyCaller) -> KeyView:
    """Return a key: `me` is the one that the request came with; any other takes the scope admin."""
    with service.database.read() as session:
        return view(Keys(session, service.settings.secret_bytes).get(_own_or_any(caller, key_id)))


@router.post(
    "/v1/keys/{key_id}/rotate",
    summary="Give a key a new secret",
    responses=responses(400, 401, 403, 404, 413, 422),
)
def rotate_key(key_id: str, service: ServiceDep, caller: AnyCaller, request: Rotation | None = None) -> NewKey:
    """Replace a key's secret; keep the answer. `me` is the key that the request came with; others take an admin.

    The secret before is good for `grace_hours` more, so that nothing fails while the new one is being spread. It cannot
    rotate the key: whoever found it cannot outlive the rotation by it.
    """
    own_or_any = _own_or_any(caller, key_id)
    if own_or_any == caller.key_id and caller.is_previous_secret:
        raise Forbidden(
            "key_was_rotated",
            f"The secret of {caller.key_id} was replaced already; the one before cannot rotate it again.",
            hint="Use the new secret, or ask an admin to rotate the key.",
        )
    grace = timedelta(hours=(request or Rotation()).grace_hours)
    with service.database.write() as session:
        row, text = _keys(session, service, caller).rotate(own_or_any, grace=grace)
    service.recent_callers.forget()
    return NewKey(**view(row).model_dump(), key=text)


@router.delete(
    "/v1/keys/{key_id}", status_code=204, summary="Revoke a key", responses=responses(401, 403, 404, 409, 422)
)
def revoke_key(key_id: str, service: ServiceDep, caller: Admin) -> None:
    """End a key at once."""
    with service.database.write() as session:
        _keys(session, service, caller).revoke(key_id)
    service.recent_callers.forget()


def _own_or_any(caller: Caller, key_id: str) -> str:
    """Return the key that is meant; without the scope admin, there is none but the caller's own."""
    if key_id in ("me", caller.key_id):
        return caller.key_id
    if "admin" not in caller.scopes:
        raise key_not_found(key_id)
    return key_id


def _keys(session: Session, service: Service, caller: Caller) -> Keys:
    return Keys(session, service.settings.secret_bytes, actor=caller.actor)
