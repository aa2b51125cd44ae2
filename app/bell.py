"""The doorbell: tells a worker that there may be work.

The database is the queue. A bell that is not heard costs time, never work: the workers' own sweep finds every row.
"""

import time
from typing import Any, Protocol

import structlog

from app.metrics import RINGS

log = structlog.get_logger()

QUEUE = "foretune"


class Bell(Protocol):
    """Something that wakes a worker."""

    def ring(self, kind: str, job_id: str) -> bool:
        """Tell a worker of one job; False when the message could not be sent."""

    def reachable(self) -> bool:
        """Tell whether messages can be sent at present."""


class SilentBell:
    """The embedded preset's bell: its worker looks for itself several times a second."""

    def ring(self, kind: str, job_id: str) -> bool:
        """Do nothing: the sweep will find the row."""
        return True

    def reachable(self) -> bool:
        """Tell that nothing can be lost."""
        return True


class CeleryBell:
    """Publishes one id to a Celery queue, quickly or not at all.

    A broker that did not answer is left alone for some seconds: requests would wait for it one after the other.
    """

    _QUIET_SECONDS = 5.0

    def __init__(self, broker_url: str) -> None:
        """Connect on first use."""
        from celery import Celery  # costs a third of a second, which the embedded preset need not wait for
        from kombu.exceptions import OperationalError

        self._unreachable = (OperationalError, OSError)
        self._celery = Celery(set_as_current=False)
        self._celery.conf.update(celery_options(broker_url))
        self._quiet_until = 0.0

    def ring(self, kind: str, job_id: str) -> bool:
        """Publish a doorbell; a broker that does not answer is logged, not an error."""
        if time.monotonic() < self._quiet_until:
            RINGS.labels(kind, "false").inc()
            return False
        try:
            self._celery.send_task(task_name(kind), args=[job_id], retry=False, ignore_result=True)
        except self._unreachable as error:
            self._quiet_until = time.monotonic() + self._QUIET_SECONDS
            log.warning("bell.unreachable", kind=kind, job=job_id, error=str(error))
            RINGS.labels(kind, "false").inc()
            return False
        RINGS.labels(kind, "true").inc()
        return True

    def reachable(self) -> bool:
        """Tell whether the broker answers within a second or two."""
        try:
            with self._celery.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=1)
        except self._unreachable:
            return False
        return True


def task_name(kind: str) -> str:
    """Return the Celery task that answers the doorbell of a kind of job."""
    return f"foretune.{kind}"


def celery_options(broker_url: str) -> dict[str, Any]:
    """Return what publisher and worker must agree on."""
    transport = {"polling_interval": 0.05} if broker_url.startswith("memory") else {"socket_timeout": 2}
    return {
        "broker_url": broker_url,
        "broker_transport_options": transport | {"socket_connect_timeout": 1, "retry_on_timeout": False},
        "broker_connection_timeout": 1,
        "task_default_queue": QUEUE,
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
    }


def make_bell(broker_url: str) -> Bell:
    """Return the bell of a preset: silent without a broker."""
    return CeleryBell(broker_url) if broker_url else SilentBell()
