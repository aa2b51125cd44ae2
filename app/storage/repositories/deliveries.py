"""Handing out what is to be sent to webhooks, to one sender at a time, and noting what came of it.

A row is claimed like a job: by a token and an expiry of the database's clock. A sender that dies while it sends leaves
the row to another one: what is told is told at least once. Of one selection, nothing is handed out while something of
an earlier revision is being sent.

Who ends an attempt takes the webhook's row first, as who adds an event does: the two never pass each other unseen.
"""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, case, delete, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from app.domain.webhooks import (
    LONGEST_PAUSE_SECONDS,
    MOST_ATTEMPTS,
    DeliveryState,
    Event,
    WebhookState,
    pause_seconds,
)
from app.storage.database import database_now
from app.storage.repositories.outbox import is_free
from app.storage.repositories.webhooks import disable
from app.storage.tables import now
from app.storage.webhook_tables import Webhook, WebhookDelivery


@dataclass(frozen=True)
class Claimed:
    """One delivery that its holder is to send; ``attempts`` counts this one, too."""

    id: str
    token: str
    webhook: Webhook
    type: str
    subject: str
    revision: int
    body: str
    attempts: int


@dataclass(frozen=True)
class Backlog:
    """What is still to be sent, over all tenants.

    Attributes:
        waiting: messages that have not arrived and are not given up.
        oldest: when the first of them was added.
        late_seconds: how long the one that is due for longest has been so; what pauses after a failure is not due.
        webhooks: how many there are: ``active``; ``failing``, at which nothing arrives at present; ``disabled``.
    """

    waiting: int
    oldest: datetime | None
    late_seconds: float
    webhooks: dict[str, int]


def backlog(session: Session) -> Backlog:
    """Count what is still to be sent; the millions that were sent are not looked at."""
    is_pending = WebhookDelivery.state == DeliveryState.PENDING
    late = database_now() - func.min(WebhookDelivery.next_attempt_at)
    query = select(func.count(), func.min(WebhookDelivery.created_at), late).where(is_pending)
    waiting, oldest, late_seconds = session.execute(query).one()
    is_failing = (Webhook.state == WebhookState.ACTIVE) & Webhook.failing_since.is_not(None)
    state = case((is_failing, "failing"), else_=Webhook.state)
    counted = dict(tuple(row) for row in session.execute(select(state, func.count()).group_by(state)))
    webhooks = {name: counted.get(name, 0) for name in ("active", "failing", "disabled")}
    return Backlog(waiting, oldest, max(0.0, late_seconds or 0.0), webhooks)


def due(session: Session, *, except_for: Collection[str] = ()) -> list[tuple[str, str]]:
    """Return the webhooks that something is to be sent to, each with its tenant, the one that waits longest first."""
    query = (
        select(Webhook.id, Webhook.tenant)
        .join(WebhookDelivery, WebhookDelivery.webhook_id == Webhook.id)
        .where(*_is_due(), Webhook.state == WebhookState.ACTIVE, Webhook.id.not_in(except_for))
        .group_by(Webhook.id, Webhook.tenant)
        .order_by(func.min(WebhookDelivery.next_attempt_at), Webhook.id)
    )
    return [(webhook_id, tenant) for webhook_id, tenant in session.execute(query)]


def claim(session: Session, webhook_id: str, *, seconds: float) -> Claimed | None:
    """Take what is to be sent to a webhook next; None when there is nothing, or others have taken it.

    Args:
        session: a writing transaction.
        webhook_id: the webhook.
        seconds: how long nobody else gets it.
    """
    earlier = aliased(WebhookDelivery)
    is_behind = exists().where(
        earlier.webhook_id == WebhookDelivery.webhook_id,
        earlier.subject == WebhookDelivery.subject,
        earlier.state == DeliveryState.PENDING,
        earlier.revision < WebhookDelivery.revision,
    )
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id, *_is_due(), ~is_behind)
    oldest_first = query.order_by(WebhookDelivery.next_attempt_at, WebhookDelivery.id)
    row = session.scalar(oldest_first.limit(1).with_for_update(skip_locked=True))
    webhook = session.get(Webhook, webhook_id)
    if row is None or webhook is None:
        return None
    token = secrets.token_hex(16)
    taken = _update(
        session,
        [WebhookDelivery.id == row.id, *_is_due()],
        attempts=WebhookDelivery.attempts + 1,
        attempted_at=database_now(),
        lease_token=token,
        lease_expires_at=database_now() + seconds,
    )
    if not taken:
        return None
    return Claimed(row.id, token, webhook, row.type, row.subject, row.revision, row.body, row.attempts + 1)


def give_back(session: Session, claimed: Claimed) -> None:
    """Leave a delivery to another sender, as if this one had never had it."""
    _update(session, _held(claimed), attempts=claimed.attempts - 1, **_FREE)


def note_success(session: Session, claimed: Claimed, attempt: dict[str, Any]) -> bool:
    """End a delivery that has arrived; False when it is no longer the holder's."""
    webhook = _lock_webhook(session, claimed)
    stored = _update(
        session, _held(claimed), state=DeliveryState.DELIVERED, last_attempt=attempt, finished_at=now(), **_FREE
    )
    if stored and webhook is not None:
        webhook.failing_since = None
    return bool(stored)


def note_failure(
    session: Session,
    claimed: Claimed,
    attempt: dict[str, Any],
    *,
    retry_after: float | None,
    is_gone: bool,
    patience_days: float,
) -> DeliveryState | None:
    """Plan the next attempt, or none.

    Args:
        session: a writing transaction.
        claimed: what did not arrive.
        attempt: what happened, JSON-ready.
        retry_after: seconds after which the receiver wants to be asked again, if it said so.
        is_gone: the receiver wants nothing any more, and its webhook is disabled.
        patience_days: a webhook that has only failed for so long is disabled.

    Returns:
        What has become of the delivery; None when it is no longer the holder's.
    """
    webhook = _lock_webhook(session, claimed)
    state, values = DeliveryState.PENDING, dict[str, Any](last_attempt=attempt)
    if claimed.type == Event.SELECTION_REVISION and _has_newer(session, claimed):
        state = DeliveryState.SUPERSEDED
    elif claimed.attempts >= MOST_ATTEMPTS:
        state = DeliveryState.FAILED
    if state == DeliveryState.PENDING:
        pause = max(pause_seconds(claimed.attempts), min(retry_after or 0.0, LONGEST_PAUSE_SECONDS))
        values["next_attempt_at"] = database_now() + pause
    else:
        values["finished_at"] = now()
    if not _update(session, _held(claimed), state=state, **values, **_FREE) or webhook is None:
        return None
    webhook.failing_since = webhook.failing_since or now()
    has_failed_for_long = webhook.failing_since < now() - timedelta(days=patience_days)
    if webhook.state == WebhookState.ACTIVE and (is_gone or has_failed_for_long):
        reason = "The receiver answered 410 Gone." if is_gone else f"Nothing arrived for {patience_days:g} days."
        disable(session, webhook, reason)
        state = DeliveryState.FAILED
    return state


def prune(session: Session, *, days: float) -> None:
    """Forget what was added more than so many days ago."""
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.created_at < now() - timedelta(days=days)))


_FREE: dict[str, Any] = {"lease_token": None, "lease_expires_at": None}


def _is_due() -> list[Any]:
    is_pending = WebhookDelivery.state == DeliveryState.PENDING
    return [is_pending, WebhookDelivery.next_attempt_at <= database_now(), is_free()]


def _held(claimed: Claimed) -> list[Any]:
    return [WebhookDelivery.id == claimed.id, WebhookDelivery.lease_token == claimed.token]


def _lock_webhook(session: Session, claimed: Claimed) -> Webhook | None:
    query = select(Webhook).where(Webhook.id == claimed.webhook.id).execution_options(populate_existing=True)
    return session.scalar(query.with_for_update())


def _has_newer(session: Session, claimed: Claimed) -> bool:
    newer = select(WebhookDelivery.id).where(
        WebhookDelivery.webhook_id == claimed.webhook.id,
        WebhookDelivery.subject == claimed.subject,
        WebhookDelivery.revision > claimed.revision,
    )
    return session.scalar(newer.limit(1)) is not None


def _update(session: Session, condition: list[Any], **values: Any) -> int:
    statement = update(WebhookDelivery).where(*condition).values(**values)
    result = session.execute(statement, execution_options={"synchronize_session": False})
    assert isinstance(result, CursorResult)
    return int(result.rowcount)
