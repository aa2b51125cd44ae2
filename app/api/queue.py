"""/v1/queue: what waits, and for how long; /v1/workers: who works, and on what. For admins of the service."""

from datetime import UTC, datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.api.access import Admin, ServiceDep
from app.api.envelopes import Progress
from app.api.problems import responses
from app.storage.leases import JOB_KINDS
from app.storage.repositories import queue, workers
from app.storage.repositories.queue import HeldJob
from app.storage.tables import Worker, now

router = APIRouter(tags=["operations"])


class WaitingJobs(BaseModel):
    """The jobs of one kind."""

    kind: str
    waiting: int = Field(description="Jobs that no worker has.")
    held: int = Field(description="Jobs that a worker has.")
    oldest_waiting_seconds: float | None = Field(description="Since when the first of those that wait is there.")


class TenantJobs(BaseModel):
    """The jobs of one kind that one tenant has."""

    tenant: str
    kind: str
    waiting: int
    held: int


class Job(BaseModel):
    """A job that a worker holds."""

    kind: str
    id: str
    tenant: str | None = Field(description="Whose it is; the checks of models are nobody's.")
    worker: str
    since: datetime
    progress: Progress | None


class QueueView(BaseModel):
    """What waits, what is held, and whose it is."""

    object: str = "queue"
    kinds: list[WaitingJobs]
    tenants: list[TenantJobs]
    held: list[Job]


class WorkerView(BaseModel):
    """A worker process; it is removed from the list a day after it was lost."""

    name: str
    object: str = "worker"
    status: str = Field(description="`busy`, `idle`, or `lost`: not seen for half a minute.")
    device: str
    pid: int
    versions: dict[str, str]
    images_per_second: float = Field(description="What its networks saw over the last few seconds.")
    started_at: datetime
    seen_at: datetime
    holds: list[Job]


class WorkerList(BaseModel):
    """All workers, by name."""

    data: list[WorkerView]


@router.get("/v1/queue", summary="What waits and what is held", responses=responses(401, 403, 422))
def get_queue(service: ServiceDep, caller: Admin) -> QueueView:
    """Count the jobs of all tenants, and list those that workers hold, the longest held first."""
    with service.database.read() as session:
        found = {(depth.kind, depth.state): depth for depth in queue.depths(session)}
        tenants, held = queue.tenants(session), queue.held(session)
    kinds = []
    for kind in JOB_KINDS:
        waiting = found[kind.name, kind.states.open]
        age = None if waiting.oldest is None else max(0.0, (now() - waiting.oldest).total_seconds())
        busy = found[kind.name, kind.states.held].count
        kinds.append(
            WaitingJobs(kind=kind.name, waiting=waiting.count, held=busy, oldest_waiting_seconds=age),
        )
    return QueueView(
        kinds=kinds, tenants=[TenantJobs(**vars(one)) for one in tenants], held=[_job(one) for one in held]
    )


@router.get("/v1/workers", summary="Who works, and on what", responses=responses(401, 403, 422))
def list_workers(service: ServiceDep, caller: Admin) -> WorkerList:
    """List the worker processes with what each of them holds and how far it is."""
    with service.database.read() as session:
        known, held = workers.known(session), queue.held(session)
    by_holder: dict[str, list[Job]] = {}
    for job in held:
        by_holder.setdefault(job.holder, []).append(_job(job))
    return WorkerList(data=[_worker(row, silence, by_holder.get(row.name, [])) for row, silence in known])


def _job(job: HeldJob) -> Job:
    progress = Progress.model_validate(job.progress) if job.progress else None
    since = datetime.fromtimestamp(job.taken_at or 0.0, UTC)
    return Job(kind=job.kind, id=job.id, tenant=job.tenant, worker=job.holder, since=since, progress=progress)


def _worker(row: Worker, silence: float, holds: list[Job]) -> WorkerView:
    is_lost = silence > workers.ALIVE_SECONDS
    return WorkerView(
        name=row.name,
        status="lost" if is_lost else "busy" if holds else "idle",
        device=row.device,
        pid=row.pid,
        versions=row.versions,
        images_per_second=0.0 if is_lost else row.images_per_second,
        started_at=row.started_at,
        seen_at=datetime.fromtimestamp(row.seen_at, UTC),
        holds=holds,
    )
