"""The Celery application: a way to wake a thread with an id, and nothing more.

No result backend, no acknowledgement games, no time limits: what must survive a crash is in the database.
"""

from celery import Celery

from app.bell import celery_options
from app.config import Settings

settings = Settings()
celery = Celery("foretune", include=["workers.tasks"])
celery.conf.update(
    celery_options(settings.broker_url or "memory://localhost/"),
    worker_pool="threads",
    worker_concurrency=1,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)
