"""What webhooks are to be told, written by the very transaction that makes it happen.

An event is therefore never lost, and never told of a change that was rolled back. Each webhook of the tenant that is
for the event gets a row of its own, with the bytes that will be sent; ``app.storage.repositories.deliveries`` hands
them to those who send. Whoever changes an object and calls this holds the object's row: events of one object are
written one after the other, in the order of its revisions.
"""

import json
from datetime import UTC
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from app.domain.ids import new_id
from app.domain.states import SELECTION_TERMINAL, DatasetState
from app.domain.webhooks import REVISION_SECONDS, TEST_EVENT, DeliveryState, Event, WebhookState
from app.storage.database import database_now
from app.storage.tables import Dataset, Finetune, Selection, now
from app.storage.webhook_tables import Webhook, WebhookDelivery

_OF_SELECTIONS = (Event.SELECTION_REVISION, Event.SELECTION_COMPLETED)


def tell_dataset_end(session: Session, dataset_id: str, _holder: str | None = None) -> None:
    """Tell that a data set is ready, or was rejected."""
    columns = Dataset.tenant, Dataset.name, Dataset.state, Dataset.revision, Dataset.error
    row = session.execute(select(*columns).where(Dataset.id == dataset_id)).one()
    event = Event.DATASET_READY if row.state == DatasetState.READY else Event.DATASET_REJECTED
    about = {"name": row.name, "error": row.error, "links": {"self": f"/v1/datasets/{dataset_id}"}}
    _tell(session, row.tenant, event, _object("dataset", dataset_id, row.state, row.revision) | about)


def tell_selection(session: Session, selection_id: str) -> None:
    """Tell that more is known of a selection, or that it has ended."""
    columns = (
        Selection.tenant,
        Selection.name,
        Selection.dataset_id,
        Selection.state,
        Selection.revision,
        Selection.ranking,
        Selection.error,
    )
    row = session.execute(select(*columns).where(Selection.id == selection_id)).one()
    revision, event = row.revision, Event.SELECTION_COMPLETED
    if row.state not in SELECTION_TERMINAL:
        proof = select(Finetune.revision).where(Finetune.selection_id == selection_id)
        revision, event = revision + (session.scalar(proof) or 0), Event.SELECTION_REVISION
    path = f"/v1/selections/{selection_id}"
    about = {
        "name": row.name,
        "dataset": row.dataset_id,
        "verdict": (row.ranking or {}).get("verdict"),
        "error": row.error,
        "links": {"self": path, "results": f"{path}/results", "dataset": f"/v1/datasets/{row.dataset_id}"},
    }
    _tell(session, row.tenant, event, _object("selection", selection_id, row.state, revision) | about)


def tell_finetune_end(session: Session, finetune_id: str, _holder: str | None = None) -> None:
    """Tell that a fine-tune has ended, well or badly."""
    columns = (
        Finetune.tenant,
        Finetune.name,
        Finetune.dataset_id,
        Finetune.selection_id,
        Finetune.state,
        Finetune.revision,
        Finetune.error,
    )
    row = session.execute(select(*columns).where(Finetune.id == finetune_id)).one()
    about = {
        "name": row.name,
        "dataset": row.dataset_id,
        "selection": row.selection_id,
        "error": row.error,
        "links": {"self": f"/v1/finetunes/{finetune_id}", "dataset": f"/v1/datasets/{row.dataset_id}"},
    }
    data = _object("finetune", finetune_id, row.state, row.revision) | about
    _tell(session, row.tenant, Event.FINETUNE_COMPLETED, data)


def tell_test(session: Session, webhook: Webhook) -> WebhookDelivery:
    """Send a webhook something, to see whether it arrives."""
    data = _object("webhook", webhook.id, webhook.state, 1) | {"links": {"self": f"/v1/webhooks/{webhook.id}"}}
    return _add(session, webhook, TEST_EVENT, data, _moment(session))


def is_free() -> ColumnElement[bool]:
    """Return the condition that nobody is sending a delivery."""
    return or_(WebhookDelivery.lease_token.is_(None), WebhookDelivery.lease_expires_at <= database_now())


def _object(kind: str, object_id: str, state: str, revision: int) -> dict[str, Any]:
    return {"id": object_id, "object": kind, "status": state, "revision": revision}


def _tell(session: Session, tenant: str, event: Event, data: dict[str, Any]) -> None:
    # Held against deletion, and read after whoever notes the end of an attempt: see ``deliveries``.
    mine = select(Webhook).where(Webhook.tenant == tenant, Webhook.state == WebhookState.ACTIVE).order_by(Webhook.id)
    for webhook in session.scalars(mine.with_for_update(read=True, key_share=True)):
        if event not in webhook.events:
            continue
        at = _moment(session)
        if event in _OF_SELECTIONS:
            _supersede(session, webhook, data)
        if event == Event.SELECTION_REVISION:
            at = max(at, _last_revision_at(session, webhook, data["id"]) + REVISION_SECONDS)
        _add(session, webhook, event, data, at)


def _supersede(session: Session, webhook: Webhook, data: dict[str, Any]) -> None:
    """Take revisions of a selection back that nobody is sending: something newer is to be told."""
    waiting = select(WebhookDelivery).where(
        WebhookDelivery.webhook_id == webhook.id,
        WebhookDelivery.subject == data["id"],
        WebhookDelivery.type == Event.SELECTION_REVISION,
        WebhookDelivery.state == DeliveryState.PENDING,
        is_free(),
    )
    for delivery in session.scalars(waiting.with_for_update()):
        if delivery.attempts:
            delivery.state, delivery.finished_at, delivery.lease_token = DeliveryState.SUPERSEDED, now(), None
        else:
            session.delete(delivery)


def _last_revision_at(session: Session, webhook: Webhook, selection_id: str) -> float:
    last = select(func.max(WebhookDelivery.attempted_at)).where(
        WebhookDelivery.webhook_id == webhook.id,
        WebhookDelivery.subject == selection_id,
        WebhookDelivery.type == Event.SELECTION_REVISION,
    )
    return session.scalar(last) or 0.0


def _add(session: Session, webhook: Webhook, event: str, data: dict[str, Any], at: float) -> WebhookDelivery:
    happened = now()
    told = {"type": event, "timestamp": happened.astimezone(UTC).isoformat().replace("+00:00", "Z"), "data": data}
    delivery = WebhookDelivery(
        id=new_id("msg"),
        webhook_id=webhook.id,
        type=event,
        subject=data["id"],
        revision=data["revision"],
        body=json.dumps(told, ensure_ascii=False, separators=(",", ":")),
        state=DeliveryState.PENDING,
        attempts=0,
        next_attempt_at=at,
        created_at=happened,
    )
    session.add(delivery)
    session.flush()
    return delivery


def _moment(session: Session) -> float:
    return session.scalars(select(database_now())).one()
