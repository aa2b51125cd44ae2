"""The Celery application: a way to wake a thread with an id, and nothing more.

No result backend, no acknowledgement games, no time limits: what must survive a crash is in the database.
"""

from typing import Any

from celery import Celery, bootsteps
from kombu.entity import Exchange, Queue

from app.bell import QUEUE, celery_options
from app.config import Settings

settings = Settings()
celery = Celery("foretune", include=["workers.tasks"])
celery.conf.update(
    celery_options(settings.broker_url or "memory://localhost/"),
    worker_pool="threads",
    worker_concurrency=1,
    # A doorbell is taken from the broker for good, one at a time. Were it acknowledged, and the broker silent at that
    # moment, it would count as not acknowledged for ever, and this worker would be handed no other one.
    task_queues=[Queue(QUEUE, Exchange(QUEUE), routing_key=QUEUE, no_ack=True)],  # type: ignore[no-untyped-call]
    worker_disable_prefetch=settings.broker_url.startswith("redis"),
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)


class Attentive(bootsteps.StartStopStep):  # type: ignore[misc]
    """Looks every few milliseconds whether the next message may be taken; Celery itself does so once a second.

    Nothing tells its event loop that the only thread has become free, and without prefetching it asks the broker for
    nothing before it looks. It begins anew with each connection, which clears the loop's timers.
    """

    requires = ("celery.worker.consumer:Tasks",)
    _EVERY_SECONDS = 0.02

    def start(self, consumer: Any) -> None:
        """Wake the event loop of a consumer that has one; that of an in-memory broker polls."""
        if consumer.hub is not None:
            consumer.hub.call_repeatedly(self._EVERY_SECONDS, lambda: None)


celery.steps["consumer"].add(Attentive)
