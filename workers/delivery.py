"""Sending webhooks: a thread that looks for what is due, and a few that wait for receivers.

None of them holds up a job: they only wait for the network. A receiver that is slow holds one thread at a time, all of
a tenant's no more than a quarter of them.
"""

import threading
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.config import Settings
from app.domain.errors import DeliveryFailed
from app.domain.webhooks import DeliveryState, sign
from app.storage.database import Database
from app.storage.repositories import deliveries
from app.storage.repositories.deliveries import Claimed
from app.storage.repositories.webhooks import keys
from workers.metrics import WEBHOOK_ATTEMPTS
from workers.webhook_request import Answer, Sender

log = structlog.get_logger()

_LOOK_EVERY_SECONDS = 0.5
_AT_ONCE = 16
_AT_ONCE_OF_TENANT = 4
_LEASE_MARGIN_SECONDS = 50.0
"""Looking up a host's name, and storing what came of it, may take as long."""
_GONE = 410
_RETRIED, _LOST = "retried", "lost"


class Delivery:
    """What one process is sending."""

    def __init__(self, database: Database, settings: Settings) -> None:
        """Send nothing yet."""
        self._database = database
        self._settings = settings
        self._sender = Sender(
            private_hosts=settings.webhook_private_host_names, timeout_seconds=settings.webhook_timeout_seconds
        )
        self._lock = threading.Lock()
        self._sending: dict[str, str] = {}
        """Webhooks to which something is being sent, each with its tenant."""
        self._not_ours: set[str] = set()
        """Webhooks whose keys are made of another secret than this process has."""
        self._news = threading.Event()

    def run(self, stopping: threading.Event) -> None:
        """Send what is due until the process is to end; what is on its way then is sent again by another one."""
        while not stopping.is_set():
            self._news.wait(_LOOK_EVERY_SECONDS)
            self._news.clear()
            try:
                self.send_due()
            except SQLAlchemyError as error:
                log.warning("webhook.look_failed", error=str(error))
                stopping.wait(_LOOK_EVERY_SECONDS)

    def send_due(self) -> int:
        """Begin to send what is due, as far as there is room, and return how many messages that is."""
        with self._database.read() as session:
            due = deliveries.due(session, except_for=[*self._busy(), *self._not_ours])
        begun = 0
        for webhook_id, tenant in due:
            if self._has_room(tenant) and self._begin(webhook_id, tenant):
                begun += 1
        return begun

    def wait(self, seconds: float) -> None:
        """Wait until nothing is being sent, for so long at most."""
        deadline = time.monotonic() + seconds
        while self._busy() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _busy(self) -> list[str]:
        with self._lock:
            return list(self._sending)

    def _has_room(self, tenant: str) -> bool:
        with self._lock:
            of_tenant = Counter(self._sending.values())[tenant]
            return len(self._sending) < _AT_ONCE and of_tenant < _AT_ONCE_OF_TENANT

    def _begin(self, webhook_id: str, tenant: str) -> bool:
        seconds = self._settings.webhook_timeout_seconds + _LEASE_MARGIN_SECONDS
        with self._database.write() as session:
            claimed = deliveries.claim(session, webhook_id, seconds=seconds)
        if claimed is None:
            return False
        with self._lock:
            self._sending[webhook_id] = tenant
        threading.Thread(target=self._send, args=(claimed,), name=f"webhook-{claimed.id}", daemon=True).start()
        return True

    def _send(self, claimed: Claimed) -> None:
        try:
            with structlog.contextvars.bound_contextvars(webhook=claimed.webhook.id, delivery=claimed.id):
                self._send_once(claimed)
        except SQLAlchemyError as error:
            # Its lease runs out, and it is sent again.
            log.warning("webhook.result_not_stored", delivery=claimed.id, error=str(error))
        finally:
            with self._lock:
                del self._sending[claimed.webhook.id]
            self._news.set()

    def _send_once(self, claimed: Claimed) -> None:
        signing = keys(claimed.webhook, self._settings.secret_bytes)
        if signing is None:
            log.error("webhook.wrong_secret", hint="This worker's FORETUNE_SECRET is not that of the API.")
            self._not_ours.add(claimed.webhook.id)
            with self._database.write() as session:
                deliveries.give_back(session, claimed)
            return
        began = time.monotonic()
        attempt: dict[str, Any] = {"at": datetime.now(UTC).isoformat(), "status_code": None, "answer": None}
        answer: Answer | None = None
        error: dict[str, str | None] | None = None
        try:
            answer = self._post(claimed, signing)
        except DeliveryFailed as failure:
            error = failure.as_dict()
        except Exception as failure:
            log.exception("webhook.crashed")
            error = {"code": "internal_error", "message": f"{type(failure).__name__}: {failure}"}
        attempt |= {"error": error, "seconds": round(time.monotonic() - began, 3)}
        if answer is not None:
            attempt |= {"status_code": answer.status, "answer": answer.text}
        self._note(claimed, attempt, answer)

    def _post(self, claimed: Claimed, signing: list[bytes]) -> Answer:
        timestamp, body = int(time.time()), claimed.body.encode()
        headers = {
            "webhook-id": claimed.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(sign(key, claimed.id, timestamp, body) for key in signing),
        }
        return self._sender.post(claimed.webhook.url, headers, body)

    def _note(self, claimed: Claimed, attempt: dict[str, Any], answer: Answer | None) -> None:
        told = {"event_type": claimed.type, "attempt": claimed.attempts, "status_code": attempt["status_code"]}
        if answer is not None and 200 <= answer.status < 300:
            with self._database.write() as session:
                stored = deliveries.note_success(session, claimed, attempt)
            WEBHOOK_ATTEMPTS.labels(DeliveryState.DELIVERED if stored else _LOST).inc()
            log.info("webhook.delivered", **told)
            return
        with self._database.write() as session:
            state = deliveries.note_failure(
                session,
                claimed,
                attempt,
                retry_after=answer.retry_after if answer else None,
                is_gone=answer is not None and answer.status == _GONE,
                patience_days=self._settings.webhook_patience_days,
            )
        WEBHOOK_ATTEMPTS.labels(_RETRIED if state == DeliveryState.PENDING else state or _LOST).inc()
        log.warning("webhook.not_delivered", **told, error=attempt["error"], state=state)
        if state == DeliveryState.FAILED:
            log.error("webhook.given_up", **told)


def deliver_until_stopped(database: Database, settings: Settings, stopping: threading.Event) -> None:
    """Send webhooks until the process is to end."""
    Delivery(database, settings).run(stopping)
