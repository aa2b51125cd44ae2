"""Prometheus metrics of a worker process, told on ``FORETUNE_METRICS_PORT``.

A series is there, with zero, before anything happens where its labels are known: of a counter that begins with one,
Prometheus would not see the first step.
"""

import structlog
from prometheus_client import REGISTRY, Counter, Histogram, start_http_server

from app.config import Settings
from app.metrics import ProcessState
from app.storage.database import Database
from app.storage.leases import JOB_KINDS

log = structlog.get_logger()

CACHES = ("features", "gradients", "forecast", "scores", "network", "weights")

JOBS_ENDED = Counter(
    "foretune_jobs_ended_total",
    "Jobs that this worker let go of: done, failed, retried, given_back, over_budget, cancelled or lost; and "
    "the error's code.",
    ["kind", "outcome", "code"],
)
LEASES_LOST = Counter("foretune_leases_lost_total", "Jobs that this worker held and that became another's.", ["kind"])
LEASES_EXPIRED = Counter(
    "foretune_leases_expired_total", "Jobs of lost workers that this one put back into the queue.", ["kind"]
)
WORKER_SECONDS = Counter("foretune_worker_seconds_total", "How long jobs were held.", ["kind", "device"])
STAGE_SECONDS = Histogram(
    "foretune_stage_seconds",
    "How long the stages of jobs took: prepare, load, features, gradients, linearise, scores, forecast, finetune, "
    "check, settle; decode is spent in the background of features, added up over its threads.",
    ["stage", "device"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
CACHE_LOOKUPS = Counter(
    "foretune_cache_lookups_total", "Whether what is kept was there: hit or miss.", ["cache", "result"]
)
IMAGES = Counter("foretune_images_total", "Images that went through a network, forward or backward.", ["device"])
WEBHOOK_ATTEMPTS = Counter(
    "foretune_webhook_attempts_total",
    "Messages sent to webhooks: delivered, retried (it will be), failed (for good), superseded by a newer one, or lost "
    "to another worker.",
    ["outcome"],
)
WEBHOOK_OUTCOMES = ("delivered", "retried", "failed", "superseded", "lost")


def look_up(cache: str, *, hit: bool) -> None:
    """Count one look into a cache."""
    CACHE_LOOKUPS.labels(cache, "hit" if hit else "miss").inc()


def tell_metrics(settings: Settings, database: Database, device: str) -> None:
    """Answer Prometheus on a port of its own, in a thread, if one is set.

    A port that is taken is logged and no reason to do no work.
    """
    for kind in JOB_KINDS:
        LEASES_LOST.labels(kind.name)
        LEASES_EXPIRED.labels(kind.name)
        WORKER_SECONDS.labels(kind.name, device)
        JOBS_ENDED.labels(kind.name, "done", "")
    for cache in CACHES:
        CACHE_LOOKUPS.labels(cache, "hit")
        CACHE_LOOKUPS.labels(cache, "miss")
    IMAGES.labels(device)
    for outcome in WEBHOOK_OUTCOMES:
        WEBHOOK_ATTEMPTS.labels(outcome)
    REGISTRY.register(ProcessState(database, {"home": settings.home, "weights": settings.weights}))
    if settings.metrics_port:
        try:
            start_http_server(settings.metrics_port, settings.metrics_host)
        except OSError as error:
            log.error("worker.metrics_unavailable", port=settings.metrics_port, error=str(error))
