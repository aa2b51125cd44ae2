"""The tables of webhooks and of what is to be sent to them."""

from datetime import datetime

from sqlalchemy import Float, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.domain.webhooks import DeliveryState, WebhookState
from app.storage.tables import Base, Json, now


class Webhook(Base):
    """Where a tenant wants to be told of some events.

    Its signing key is not stored: it is made of the service's secret, the id and ``salt``. After a rotation, what is
    sent is signed with the key of ``previous_salt``, too, until ``previous_until``. ``key_check`` tells a process with
    another secret that it cannot sign.
    """

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]
    url: Mapped[str]
    events: Mapped[list[str]]
    state: Mapped[str] = mapped_column(default=WebhookState.ACTIVE)
    reason: Mapped[str | None]
    salt: Mapped[str]
    key_check: Mapped[str]
    previous_salt: Mapped[str | None]
    previous_until: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)

    __table_args__ = (Index("ix_webhooks_listing", "tenant", "created_at", "id"),)


class WebhookDelivery(Base):
    """One event for one webhook, added by the transaction that made it happen.

    ``body`` is what is sent, byte by byte, at every attempt. ``subject`` is the object that it is about, ``revision``
    that of the object. Moments are seconds by the database's clock.
    """

    __tablename__ = "webhook_deliveries"

    id: Mapped[str] = mapped_column(primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    type: Mapped[str]
    subject: Mapped[str]
    revision: Mapped[int]
    body: Mapped[str]
    state: Mapped[str] = mapped_column(default=DeliveryState.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[float] = mapped_column(Float)
    attempted_at: Mapped[float | None] = mapped_column(Float)
    lease_token: Mapped[str | None]
    lease_expires_at: Mapped[float | None] = mapped_column(Float)
    last_attempt: Mapped[Json | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_webhook_deliveries_listing", "webhook_id", "created_at", "id"),
        Index("ix_webhook_deliveries_subject", "webhook_id", "subject", "revision"),
        Index("ix_webhook_deliveries_created_at", "created_at"),
        Index(
            "ix_webhook_deliveries_due",
            "next_attempt_at",
            sqlite_where=text("state = 'pending'"),
            postgresql_where=text("state = 'pending'"),
        ),
    )
