"""/v1/usage: what a tenant has of what its quotas limit."""

from dataclasses import asdict
from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.api.access import Reader, ServiceDep
from app.api.problems import responses
from app.domain.quotas import NAMES
from app.storage.repositories.tenants import limits_of
from app.storage.repositories.usage import used
from app.storage.repositories.worker_seconds import day_ends_at

router = APIRouter(tags=["tenants"])


class Amount(BaseModel):
    """How much of one thing there is, and may be."""

    used: float
    limit: float | None = Field(description="Null: there is no limit.")


class Usage(BaseModel):
    """What a tenant has."""

    object: str = "usage"
    tenant: str
    bytes: Amount = Field(description="Of uploaded archives whose data sets exist.")
    datasets: Amount
    open_selections: Amount
    open_finetunes: Amount = Field(description="Besides those that prove a selection.")
    worker_seconds_per_day: Amount = Field(description="Used since midnight, UTC.")
    day_ends_at: datetime = Field(description="When worker seconds are counted from 0 again.")


def read_usage(session: Session, name: str) -> Usage:
    """Return what a tenant has."""
    limits = asdict(limits_of(session, name))
    amounts = used(session, name)
    return Usage(
        tenant=name,
        day_ends_at=day_ends_at(),
        **{quota: Amount(used=round(amounts[quota], 3), limit=limits[quota]) for quota in NAMES},
    )


@router.get("/v1/usage", summary="Show what your tenant uses and may use", responses=responses(401, 403, 422))
def get_usage(service: ServiceDep, caller: Reader) -> Usage:
    """Return how much the caller's tenant has of what its quotas limit."""
    with service.database.read() as session:
        return read_usage(session, caller.tenant)
