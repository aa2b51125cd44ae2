"""/v1/keys: API keys. A key is shown once, when it is made."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.api.access import Admin, Scope, ServiceDep
from app.api.envelopes import After, Limit, ListOf, Name, StrictModel
from app.api.problems import responses
from app.storage.repositories.keys import Keys
from app.storage.tables import ApiKey

router = APIRouter(tags=["keys"])


class KeyRequest(StrictModel):
    """A key to be made."""

    name: Name = Field(description="Who or what will use it.")
    scopes: list[Scope] = Field(default=["read", "write"], min_length=1)
    tenant: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[a-z0-9][a-z0-9_-]*$")] | None = Field(
        default=None, description="Whose data sets and selections it sees; without it, the caller's own."
    )


class KeyView(BaseModel):
    """A key as it can be listed."""

    id: str
    object: str = "key"
    name: str
    tenant: str
    prefix: str
    scopes: list[str]
    created_at: datetime


class NewKey(KeyView):
    """A key as it is shown once."""

    key: str


def view(row: ApiKey) -> KeyView:
    """Return a row as it can be listed."""
    return KeyView(
        id=row.id,
        name=row.name,
        tenant=row.tenant,
        prefix=f"ft_{row.prefix}",
        scopes=row.scopes,
        created_at=row.created_at,
    )


@router.post("/v1/keys", status_code=201, summary="Make a key", responses=responses(400, 401, 403, 413, 422))
def create_key(request: KeyRequest, service: ServiceDep, caller: Admin) -> NewKey:
    """Make a key; keep the answer, for the key cannot be read again."""
    with service.database.write() as session:
        row, text = Keys(session, service.settings.secret_bytes).create(
            tenant=request.tenant or caller.tenant, name=request.name, scopes=sorted(set(request.scopes))
        )
    return NewKey(**view(row).model_dump(), key=text)


@router.get("/v1/keys", summary="List keys, newest first", responses=responses(401, 403, 422))
def list_keys(service: ServiceDep, caller: Admin, limit: Limit = 50, after: After = None) -> ListOf[KeyView]:
    """List the keys of all tenants that were not revoked."""
    with service.database.read() as session:
        page = Keys(session, service.settings.secret_bytes).page(limit=limit, cursor=after)
    return ListOf.of(page, view)


@router.delete("/v1/keys/{key_id}", status_code=204, summary="Revoke a key", responses=responses(401, 403, 404, 422))
def revoke_key(key_id: str, service: ServiceDep, caller: Admin) -> None:
    """End a key at once."""
    with service.database.write() as session:
        Keys(session, service.settings.secret_bytes).revoke(key_id)
    service.recent_callers.forget()
