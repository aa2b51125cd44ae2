"""/v1/webhooks: where a tenant wants to be told of events.

A secret is shown when it is made or rotated, and never again. All of it takes the scope write: a URL may hold a
password of its receiver's.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.api.access import Service, ServiceDep, Writer
from app.api.envelopes import After, Limit, ListOf, Name, StrictModel, Text
from app.api.problems import JobError, responses
from app.api.recent_callers import Caller
from app.domain.webhook_url import LONGEST_URL, read_url
from app.domain.webhooks import DeliveryState, Event, WebhookState, secret_text
from app.storage.repositories.audit import record
from app.storage.repositories.outbox import tell_test
from app.storage.repositories.webhooks import Webhooks
from app.storage.tables import now
from app.storage.webhook_tables import Webhook, WebhookDelivery

router = APIRouter(tags=["webhooks"])

_MOST_GRACE_HOURS = 7 * 24

EventName = Literal[
    "dataset.ready", "dataset.rejected", "selection.revision", "selection.completed", "finetune.completed"
]
Url = Annotated[Text, Field(min_length=1, max_length=LONGEST_URL, description="Where events are posted to: https.")]
Events = Annotated[list[EventName], Field(min_length=1, description="Which ones.")]


class WebhookRequest(StrictModel):
    """A webhook to be made."""

    url: Url
    events: Events = Field(default_factory=lambda: [*Event])
    name: Name = Field(default="webhook", description="For people.")


class WebhookChange(StrictModel):
    """What to change of a webhook; what is left out stays."""

    url: Url | None = None
    events: Events | None = None
    name: Name | None = None
    status: Literal["active", "disabled"] | None = Field(
        default=None, description="`disabled` gives up what was not delivered yet."
    )


class SecretRotation(StrictModel):
    """How to replace a secret."""

    grace_hours: float = Field(
        default=24, ge=0, le=_MOST_GRACE_HOURS, description="How long the secret before signs, too."
    )


class WebhookView(BaseModel):
    """A webhook as users see it."""

    id: str
    object: str = "webhook"
    name: str
    url: str
    events: list[str]
    status: str
    reason: str | None = Field(description="Why it is disabled.")
    failing_since: datetime | None = Field(description="Since when nothing has arrived.")
    previous_until: datetime | None = Field(description="Until when the secret before the rotation signs, too.")
    created_at: datetime
    updated_at: datetime
    links: dict[str, str]


class NewWebhook(WebhookView):
    """A webhook with its secret, which is shown once."""

    secret: str


class Attempt(BaseModel):
    """What came of sending something once."""

    at: datetime
    seconds: float
    status_code: int | None
    answer: str | None = Field(description="The beginning of what the receiver said.")
    error: JobError | None


class DeliveryView(BaseModel):
    """One event for one webhook."""

    id: str = Field(description="What is sent as `webhook-id`.")
    object: str = "webhook_delivery"
    webhook: str
    type: str
    subject: str = Field(description="Id of the object that it is about.")
    revision: int
    status: str
    attempts: int
    next_attempt_at: datetime | None
    last_attempt: Attempt | None
    created_at: datetime
    finished_at: datetime | None


def view(row: Webhook) -> WebhookView:
    """Return a row as users see it."""
    path = f"/v1/webhooks/{row.id}"
    rotated_lately = row.previous_until is not None and row.previous_until > now()
    return WebhookView(
        id=row.id,
        name=row.name,
        url=row.url,
        events=row.events,
        status=row.state,
        reason=row.reason,
        failing_since=row.failing_since,
        previous_until=row.previous_until if rotated_lately else None,
        created_at=row.created_at,
        updated_at=row.updated_at,
        links={"self": path, "deliveries": f"{path}/deliveries", "test": f"{path}/test", "rotate": f"{path}/rotate"},
    )


def delivery_view(row: WebhookDelivery) -> DeliveryView:
    """Return a row as users see it."""
    is_pending = row.state == DeliveryState.PENDING
    return DeliveryView(
        id=row.id,
        webhook=row.webhook_id,
        type=row.type,
        subject=row.subject,
        revision=row.revision,
        status=row.state,
        attempts=row.attempts,
        next_attempt_at=datetime.fromtimestamp(row.next_attempt_at, UTC) if is_pending else None,
        last_attempt=Attempt(**row.last_attempt) if row.last_attempt else None,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


@router.post(
    "/v1/webhooks", status_code=201, summary="Make a webhook", responses=responses(400, 401, 403, 409, 413, 422)
)
def create_webhook(request: WebhookRequest, service: ServiceDep, caller: Writer) -> NewWebhook:
    """Be told of events from now on; keep the answer, for the secret cannot be read again."""
    url = _url(service, request.url)
    with service.database.write() as session:
        row, key = _webhooks(session, service, caller).create(
            name=request.name, url=url, events=_each_once(request.events)
        )
        _note(session, caller, "webhook_created", row)
    return NewWebhook(**view(row).model_dump(), secret=secret_text(key))


@router.get("/v1/webhooks", summary="List webhooks, newest first", responses=responses(401, 403, 422))
def list_webhooks(service: ServiceDep, caller: Writer, limit: Limit = 50, after: After = None) -> ListOf[WebhookView]:
    """List the tenant's webhooks."""
    with service.database.read() as session:
        page = _webhooks(session, service, caller).page(limit=limit, cursor=after)
    return ListOf.of(page, view)


@router.get("/v1/webhooks/{webhook_id}", summary="Read a webhook", responses=responses(401, 403, 404, 422))
def get_webhook(webhook_id: str, service: ServiceDep, caller: Writer) -> WebhookView:
    """Return one webhook, without its secret."""
    with service.database.read() as session:
        return view(_webhooks(session, service, caller).get(webhook_id))


@router.patch(
    "/v1/webhooks/{webhook_id}", summary="Change a webhook", responses=responses(400, 401, 403, 404, 413, 422)
)
def change_webhook(webhook_id: str, request: WebhookChange, service: ServiceDep, caller: Writer) -> WebhookView:
    """Change URL, events, name or status; what waits to be sent goes to the new URL."""
    url = None if request.url is None else _url(service, request.url)
    with service.database.write() as session:
        row = _webhooks(session, service, caller).change(
            webhook_id,
            name=request.name,
            url=url,
            events=None if request.events is None else _each_once(request.events),
            state=None if request.status is None else WebhookState(request.status),
        )
        return view(row)


@router.delete(
    "/v1/webhooks/{webhook_id}", status_code=204, summary="Remove a webhook", responses=responses(401, 403, 404, 422)
)
def delete_webhook(webhook_id: str, service: ServiceDep, caller: Writer) -> None:
    """Remove a webhook, its deliveries, and what was to be sent to it."""
    with service.database.write() as session:
        webhooks = _webhooks(session, service, caller)
        row = webhooks.get(webhook_id)
        _note(session, caller, "webhook_deleted", row)
        webhooks.delete(webhook_id)


@router.post(
    "/v1/webhooks/{webhook_id}/rotate",
    summary="Give a webhook another secret",
    responses=responses(400, 401, 403, 404, 413, 422),
)
def rotate_secret(
    webhook_id: str, service: ServiceDep, caller: Writer, request: SecretRotation | None = None
) -> NewWebhook:
    """Make a new secret; for a while, what is sent carries a signature of the one before, too."""
    asked = request or SecretRotation()
    with service.database.write() as session:
        row, key = _webhooks(session, service, caller).rotate(webhook_id, grace_hours=asked.grace_hours)
        _note(session, caller, "webhook_rotated", row)
    return NewWebhook(**view(row).model_dump(), secret=secret_text(key))


@router.post(
    "/v1/webhooks/{webhook_id}/test",
    status_code=202,
    summary="Send a webhook something",
    responses=responses(401, 403, 404, 409, 422),
)
def test_webhook(webhook_id: str, service: ServiceDep, caller: Writer) -> DeliveryView:
    """Send a `webhook.test` the way events are sent; what came of it is in the list of deliveries."""
    with service.database.write() as session:
        row = _webhooks(session, service, caller).get_active(webhook_id)
        return delivery_view(tell_test(session, row))


@router.get(
    "/v1/webhooks/{webhook_id}/deliveries",
    summary="List what was sent to a webhook, newest first",
    responses=responses(401, 403, 404, 422),
)
def list_deliveries(
    webhook_id: str, service: ServiceDep, caller: Writer, limit: Limit = 50, after: After = None
) -> ListOf[DeliveryView]:
    """List what was, is and will be sent, and what came of the last attempt."""
    with service.database.read() as session:
        page = _webhooks(session, service, caller).deliveries(webhook_id, limit=limit, cursor=after)
    return ListOf.of(page, delivery_view)


def _webhooks(session: Session, service: Service, caller: Caller) -> Webhooks:
    return Webhooks(session, caller.tenant, service.settings.secret_bytes)


def _url(service: Service, url: str) -> str:
    return read_url(url, private_hosts=service.settings.webhook_private_host_names)


def _each_once(events: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(events))


def _note(session: Session, caller: Caller, action: Any, row: Webhook) -> None:
    details = {"name": row.name, "events": row.events}
    record(session, actor=caller.actor, tenant=caller.tenant, action=action, target=row.id, details=details)
