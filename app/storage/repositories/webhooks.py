"""The webhooks of one tenant."""

import secrets
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, NotFound
from app.domain.ids import new_id
from app.domain.webhooks import DeliveryState, WebhookState, derive_key, key_check
from app.storage.repositories.audit import record
from app.storage.repositories.paging import Page, page
from app.storage.tables import Tenant, now
from app.storage.webhook_tables import Webhook, WebhookDelivery

MOST_WEBHOOKS = 20


class Webhooks:
    """Where one tenant wants to be told of events."""

    def __init__(self, session: Session, tenant: str, service_secret: bytes) -> None:
        """See only rows of ``tenant``; signing keys are made of the service's secret."""
        self._session = session
        self._tenant = tenant
        self._secret = service_secret

    def create(self, *, name: str, url: str, events: Sequence[str]) -> tuple[Webhook, bytes]:
        """Add a webhook; return it and the key that signs what it is sent.

        Raises:
            Conflict: ``too_many_webhooks``.
        """
        # Requests of one tenant take turns, so that the second one counts what the first has added.
        self._session.execute(select(Tenant.id).where(Tenant.name == self._tenant).with_for_update())
        count = select(func.count()).select_from(Webhook).where(Webhook.tenant == self._tenant)
        if self._session.scalars(count).one() >= MOST_WEBHOOKS:
            raise Conflict(
                "too_many_webhooks",
                f"There are {MOST_WEBHOOKS} webhooks, and no more are allowed.",
                hint="Remove one: DELETE /v1/webhooks/{id}.",
            )
        row = Webhook(id=new_id("wh"), tenant=self._tenant, name=name, url=url, events=list(events), salt="")
        key = self._renew(row)
        self._session.add(row)
        self._session.flush()
        return row, key

    def get(self, webhook_id: str, *, lock: bool = False) -> Webhook:
        """Return one webhook.

        Raises:
            NotFound: ``webhook_not_found``, also when it is another tenant's.
        """
        query = select(Webhook).where(Webhook.id == webhook_id, Webhook.tenant == self._tenant)
        row = self._session.scalar(query.with_for_update() if lock else query)
        if row is None:
            raise NotFound(
                "webhook_not_found",
                f"There is no webhook {webhook_id}.",
                param="webhook",
                hint="List yours with GET /v1/webhooks.",
            )
        return row

    def get_active(self, webhook_id: str) -> Webhook:
        """Return one webhook to which events are sent, held against deletion until the transaction ends.

        Raises:
            NotFound: ``webhook_not_found``.
            Conflict: ``webhook_disabled``.
        """
        row = self.get(webhook_id, lock=True)
        if row.state == WebhookState.DISABLED:
            raise Conflict(
                "webhook_disabled",
                f"Nothing is sent to webhook {webhook_id}: {row.reason}",
                hint=f'Enable it: PATCH /v1/webhooks/{webhook_id} with {{"status": "active"}}.',
            )
        return row

    def page(self, *, limit: int, cursor: str | None) -> Page[Webhook]:
        """List webhooks, newest first."""
        return page(
            self._session, select(Webhook).where(Webhook.tenant == self._tenant), Webhook, limit=limit, cursor=cursor
        )

    def change(
        self,
        webhook_id: str,
        *,
        name: str | None = None,
        url: str | None = None,
        events: Sequence[str] | None = None,
        state: str | None = None,
    ) -> Webhook:
        """Change what is given. Disabling gives up what was not delivered yet; enabling forgets earlier failures."""
        row = self.get(webhook_id, lock=True)
        row.name = row.name if name is None else name
        row.url = row.url if url is None else url
        row.events = row.events if events is None else list(events)
        if state == WebhookState.DISABLED and row.state != state:
            disable(self._session, row, "Disabled by its owner.", is_failure=False)
        elif state == WebhookState.ACTIVE and row.state != state:
            row.state, row.reason, row.failing_since = WebhookState.ACTIVE, None, None
        self._session.flush()
        return row

    def rotate(self, webhook_id: str, *, grace_hours: float) -> tuple[Webhook, bytes]:
        """Give a webhook a new key and return it; what is sent is signed with the old one, too, for some hours."""
        row = self.get(webhook_id, lock=True)
        row.previous_salt = row.salt if grace_hours else None
        row.previous_until = now() + timedelta(hours=grace_hours) if grace_hours else None
        key = self._renew(row)
        self._session.flush()
        return row, key

    def delete(self, webhook_id: str) -> None:
        """Remove a webhook and what was to be sent to it."""
        row = self.get(webhook_id, lock=True)
        self._session.execute(delete(Webhook).where(Webhook.id == row.id))

    def deliveries(self, webhook_id: str, *, limit: int, cursor: str | None) -> Page[WebhookDelivery]:
        """List what was and is to be sent to a webhook, newest first."""
        query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == self.get(webhook_id).id)
        return page(self._session, query, WebhookDelivery, limit=limit, cursor=cursor)

    def _renew(self, row: Webhook) -> bytes:
        row.salt = secrets.token_hex(16)
        key = derive_key(self._secret, row.id, row.salt)
        row.key_check = key_check(key)
        return key


def keys(row: Webhook, service_secret: bytes) -> list[bytes] | None:
    """Return what signs for a webhook, the current key first; None where the service's secret is not the one it has."""
    current = derive_key(service_secret, row.id, row.salt)
    if key_check(current) != row.key_check:
        return None
    if row.previous_salt is None or row.previous_until is None or row.previous_until < now():
        return [current]
    return [current, derive_key(service_secret, row.id, row.previous_salt)]


def disable(session: Session, webhook: Webhook, reason: str, *, is_failure: bool = True) -> None:
    """Send nothing any more to a webhook, whose row the transaction holds, and give up what was not delivered yet."""
    webhook.state, webhook.reason = WebhookState.DISABLED, reason
    session.flush()
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.state == DeliveryState.PENDING)
        .values(state=DeliveryState.FAILED, finished_at=now(), lease_token=None, lease_expires_at=None)
        .execution_options(synchronize_session=False)
    )
    if is_failure:
        record(
            session,
            actor="service",
            tenant=webhook.tenant,
            action="webhook_disabled",
            target=webhook.id,
            details={"reason": reason},
        )
