"""/healthz, /readyz, /metrics: for load balancers and monitoring; no key needed."""

from typing import Literal

import structlog
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from app.api.access import Service, ServiceDep
from app.storage.leases import JOB_KINDS
from app.storage.repositories.workers import alive

router = APIRouter(tags=["health"])
log = structlog.get_logger()

_JOBS = Gauge("foretune_jobs", "Jobs by kind and state.", ["kind", "state"])
_WORKERS = Gauge("foretune_workers_alive", "Worker processes seen lately.")


class Readiness(BaseModel):
    """What works: `degraded` answers requests, and work may be late."""

    status: Literal["ready", "degraded", "down"]
    checks: dict[str, str]


@router.get("/healthz", summary="Is the process alive?")
def healthz() -> dict[str, str]:
    """Answer as long as the process lives."""
    return {"status": "alive"}


@router.get("/readyz", summary="Can it work?", responses={503: {"model": Readiness, "description": "Down"}})
def readyz(response: Response, service: ServiceDep) -> Readiness:
    """Try the database, the object store, the broker, and look for workers."""
    checks = {"database": _database(service), "objects": _objects(service)}
    is_down = any(state != "ok" for state in checks.values())
    checks["broker"] = "ok" if service.bell.reachable() else "unreachable: work is found by the workers' sweep"
    checks["workers"] = "ok" if not is_down and _count_workers(service) else "no worker was seen lately"
    if is_down:
        response.status_code = 503
        return Readiness(status="down", checks=checks)
    is_degraded = any(state != "ok" for state in checks.values())
    return Readiness(status="degraded" if is_degraded else "ready", checks=checks)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
def metrics(service: ServiceDep) -> Response:
    """Return request counters and the state of the queue."""
    _JOBS.clear()
    with service.database.read() as session:
        for kind in JOB_KINDS:
            counts = select(kind.table.state, func.count()).group_by(kind.table.state)
            for state, count in session.execute(counts).all():
                _JOBS.labels(kind.name, state).set(count)
        _WORKERS.set(alive(session))
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _database(service: Service) -> str:
    try:
        with service.database.read() as session:
            session.execute(select(1))
    except SQLAlchemyError as error:
        log.error("readyz.database", error=str(error))
        return "unreachable"
    return "ok"


def _objects(service: Service) -> str:
    try:
        service.objects.check()
    except Exception as error:  # noqa: BLE001  (each store has its own errors; all of them mean the same here)
        log.error("readyz.objects", error=str(error))
        return "unreachable"
    return "ok"


def _count_workers(service: Service) -> int:
    with service.database.read() as session:
        return alive(session)
