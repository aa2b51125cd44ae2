"""/v1/tenants: who owns data sets and selections, and how much of each. For admins of the service."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.api.access import Admin, ServiceDep
from app.api.envelopes import After, Limit, ListOf, StrictModel
from app.api.problems import responses
from app.api.usage import Usage, read_usage
from app.domain.quotas import Quotas
from app.storage.repositories.tenants import Tenants, quotas_of
from app.storage.tables import Tenant

router = APIRouter(tags=["tenants"])

TenantName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[a-z0-9][a-z0-9_-]*$")]
_Whole = Annotated[int, Field(ge=0, lt=2**31)]


class QuotasRequest(StrictModel):
    """Limits; null is none."""

    bytes: Annotated[int, Field(ge=0, le=10**18)] | None = Field(default=None, description="Of uploaded archives.")
    datasets: _Whole | None = None
    open_selections: _Whole | None = None
    open_finetunes: _Whole | None = Field(default=None, description="Besides those that prove a selection.")
    worker_seconds_per_day: Annotated[float, Field(ge=0, le=1e9)] | None = None


class TenantRequest(StrictModel):
    """A tenant to be made."""

    name: TenantName
    quotas: QuotasRequest | None = Field(default=None, description="What is left out is as the service is set up.")


class TenantChange(StrictModel):
    """What is to be different; what is left out stays."""

    quotas: QuotasRequest | None = Field(default=None, description="A quota that is left out stays as it is.")
    suspended: bool | None = Field(default=None, description="While true, its keys are refused and its jobs wait.")


class TenantView(BaseModel):
    """A tenant as admins see it."""

    name: str
    object: str = "tenant"
    quotas: Quotas
    created_at: datetime
    suspended_at: datetime | None


class TenantWithUsage(TenantView):
    """A tenant, and what it has."""

    usage: Usage


def view(row: Tenant) -> TenantView:
    """Return a row as admins see it."""
    return TenantView(name=row.name, quotas=quotas_of(row), created_at=row.created_at, suspended_at=row.suspended_at)


def _with_usage(session: Session, row: Tenant) -> TenantWithUsage:
    return TenantWithUsage(**dict(view(row)), usage=read_usage(session, row.name))


@router.post("/v1/tenants", status_code=201, summary="Make a tenant", responses=responses(400, 401, 403, 409, 413, 422))
def create_tenant(request: TenantRequest, response: Response, service: ServiceDep, caller: Admin) -> TenantView:
    """Make a tenant before its first key, which would make it, too: with quotas of its own."""
    given = request.quotas.model_dump(exclude_unset=True) if request.quotas else {}
    quotas = Quotas(**(vars(service.settings.tenant_quotas) | given))
    with service.database.write() as session:
        row = Tenants(session, actor=caller.actor).create(request.name, quotas)
    response.headers["Location"] = f"/v1/tenants/{row.name}"
    return view(row)


@router.get("/v1/tenants", summary="List tenants, newest first", responses=responses(401, 403, 422))
def list_tenants(service: ServiceDep, caller: Admin, limit: Limit = 50, after: After = None) -> ListOf[TenantView]:
    """List all tenants with their quotas."""
    with service.database.read() as session:
        page = Tenants(session, actor=caller.actor).page(limit=limit, cursor=after)
    return ListOf.of(page, view)


@router.get("/v1/tenants/{tenant}", summary="Read a tenant", responses=responses(401, 403, 404, 422))
def get_tenant(tenant: str, service: ServiceDep, caller: Admin) -> TenantWithUsage:
    """Return one tenant with its quotas, and what it has."""
    with service.database.read() as session:
        return _with_usage(session, Tenants(session, actor=caller.actor).get(tenant))


@router.patch(
    "/v1/tenants/{tenant}",
    summary="Change quotas, suspend or resume a tenant",
    responses=responses(400, 401, 403, 404, 413, 422),
)
def change_tenant(tenant: str, request: TenantChange, service: ServiceDep, caller: Admin) -> TenantWithUsage:
    """Change what the request names. Quotas below what a tenant has take nothing away: it gets no more of it."""
    quotas = request.quotas.model_dump(exclude_unset=True) if request.quotas else {}
    with service.database.write() as session:
        tenants = Tenants(session, actor=caller.actor)
        row = tenants.change(tenant, quotas=quotas, suspended=request.suspended)
        answer = _with_usage(session, row)
    service.recent_callers.forget()
    return answer
