"""What waits and who works, over all tenants; reading it takes an admin's key."""

from datetime import datetime

from app.client.connection import Connection
from app.client.resources import Progress, Resource


class HeldJob(Resource):
    """A job that a worker holds: of which kind, whose, since when, and how far it is."""

    kind: str
    id: str
    tenant: str | None
    worker: str
    since: datetime
    progress: Progress | None


class WaitingJobs(Resource):
    """How many jobs of a kind wait and are held, and since when the first of those that wait is there."""

    kind: str
    waiting: int
    held: int
    oldest_waiting_seconds: float | None


class TenantJobs(Resource):
    """How many jobs of a kind one tenant has."""

    tenant: str
    kind: str
    waiting: int
    held: int


class Queue(Resource):
    """What waits, what is held, and whose it is."""

    kinds: tuple[WaitingJobs, ...]
    tenants: tuple[TenantJobs, ...]
    held: tuple[HeldJob, ...]


class Worker(Resource):
    """A worker process; its ``status`` is ``busy``, ``idle`` or ``lost``."""

    name: str
    status: str
    device: str
    pid: int
    versions: dict[str, str]
    images_per_second: float
    started_at: datetime
    seen_at: datetime
    holds: tuple[HeldJob, ...]


class Workers(Resource):
    """All workers, by name."""

    data: tuple[Worker, ...]


class Operations:
    """The service as those see it who keep it running."""

    def __init__(self, connection: Connection) -> None:
        """Work over a connection."""
        self._connection = connection

    def queue(self) -> Queue:
        """Return what waits and what is held."""
        return self._connection.get("/v1/queue", Queue)

    def workers(self) -> tuple[Worker, ...]:
        """Return the workers and what each of them holds; lost ones for a day."""
        return self._connection.get("/v1/workers", Workers).data
