"""/metrics: what Prometheus reads of this process, and of the queue, which all processes see alike; no key needed."""

from collections.abc import Iterable

import structlog
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from app.api.access import Service
from app.api.health import OK, Checks
from app.api.probe import Probe
from app.metrics import ProcessState
from app.storage.leases import JOB_KINDS
from app.storage.repositories.deliveries import Backlog, backlog
from app.storage.repositories.queue import Depth, depths
from app.storage.repositories.workers import count_by_device
from app.storage.tables import now

router = APIRouter(tags=["health"])
log = structlog.get_logger()

Queue = tuple[list[Depth], dict[str, int], Backlog]


class Metrics:
    """The metrics of one service; the queue is read once a second at most, however often it is asked for."""

    def __init__(self, service: Service, checks: Checks) -> None:
        """Read nothing yet."""
        self._service = service
        self._checks = checks
        self._queue: Probe[Queue] = Probe(self._read_queue)
        self._process = ProcessState(service.database, {"home": service.settings.home})

    async def exposition(self) -> bytes:
        """Return everything in Prometheus' text format; without the queue while the database does not answer."""
        states = await self._checks.states()
        registry = CollectorRegistry()
        registry.register(self._process)
        registry.register(_Families(_checks(states)))
        try:
            if states["database"] == OK:
                found, workers, unsent = await self._queue.answer()
                registry.register(_Families([*_queue(found, workers), *_webhooks(unsent)]))
        except (TimeoutError, SQLAlchemyError) as error:
            log.error("metrics.no_queue", error=str(error))
        return generate_latest(REGISTRY) + generate_latest(registry)

    def _read_queue(self) -> Queue:
        with self._service.database.read() as session:
            return depths(session), count_by_device(session), backlog(session)


class _Families(Collector):
    """Metrics that are known already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def _checks(states: dict[str, str]) -> Iterable[Metric]:
    passed = GaugeMetricFamily("foretune_check_ok", "1 for a check of /readyz that passed, else 0.", labels=["check"])
    for name, state in states.items():
        passed.add_metric([name], float(state == OK))
    yield passed


def _queue(found: list[Depth], workers: dict[str, int]) -> Iterable[Metric]:
    jobs = GaugeMetricFamily("foretune_jobs", "What has not ended, by kind and state.", labels=["kind", "state"])
    for depth in found:
        jobs.add_metric([depth.kind, depth.state], depth.count)
    yield jobs
    oldest = GaugeMetricFamily(
        "foretune_oldest_waiting_seconds", "Since when the job that waits longest is there; 0: none.", labels=["kind"]
    )
    waiting = {kind.name: kind.states.open for kind in JOB_KINDS}
    for depth in found:
        if waiting.get(depth.kind) == depth.state:
            age = 0.0 if depth.oldest is None else max(0.0, (now() - depth.oldest).total_seconds())
            oldest.add_metric([depth.kind], age)
    yield oldest
    alive = GaugeMetricFamily("foretune_workers_alive", "Worker processes seen lately, by device.", labels=["device"])
    for device, count in workers.items():
        alive.add_metric([device], count)
    if not workers:
        alive.add_metric(["none"], 0)  # a sum over no series would be no number
    yield alive


def _webhooks(found: Backlog) -> Iterable[Metric]:
    age = 0.0 if found.oldest is None else max(0.0, (now() - found.oldest).total_seconds())
    yield GaugeMetricFamily("foretune_webhook_messages", "Messages still to be delivered.", value=found.waiting)
    yield GaugeMetricFamily("foretune_webhook_oldest_seconds", "Age of the oldest of them; 0: none.", value=age)
    yield GaugeMetricFamily(
        "foretune_webhook_late_seconds",
        "How long the message that is due for longest has been so; one that pauses after a failure is not due.",
        value=found.late_seconds,
    )
    webhooks = GaugeMetricFamily(
        "foretune_webhooks", "Webhooks: active, failing (nothing arrives), disabled.", labels=["state"]
    )
    for state, count in found.webhooks.items():
        webhooks.add_metric([state], count)
    yield webhooks


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Return the counters of this process, what the checks say, and the state of the queue."""
    source: Metrics = request.app.state.metrics
    return Response(await source.exposition(), media_type=CONTENT_TYPE_LATEST)
