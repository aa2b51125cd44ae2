"""Being told of events instead of asking for them."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Literal

from app.client.connection import Connection, segment
from app.client.jobs import every
from app.client.resources import JobError, Resource


class Webhook(Resource):
    """Where events are posted to."""

    id: str
    name: str
    url: str
    events: tuple[str, ...]
    status: str
    reason: str | None = None
    failing_since: datetime | None = None
    created_at: datetime


class NewWebhook(Webhook):
    """A webhook with its secret, which is in this answer only."""

    secret: str


class Attempt(Resource):
    """What came of sending something once."""

    at: datetime
    seconds: float
    status_code: int | None
    answer: str | None
    error: JobError | None


class Delivery(Resource):
    """One event for one webhook."""

    id: str
    type: str
    subject: str
    revision: int
    status: str
    attempts: int
    next_attempt_at: datetime | None
    last_attempt: Attempt | None
    created_at: datetime

    @property
    def has_ended(self) -> bool:
        """Whether it will not be sent again."""
        return self.status != "pending"


class Webhooks:
    """The webhooks of the caller's tenant."""

    def __init__(self, connection: Connection) -> None:
        """Work over a connection."""
        self._connection = connection

    def create(self, url: str, *, events: Sequence[str] | None = None, name: str | None = None) -> NewWebhook:
        """Be told of events from now on.

        Args:
            url: where they are posted to.
            events: such as ``selection.completed``; by default all.
            name: for people.

        Raises:
            ApiError: such as ``invalid_webhook_url`` or ``address_not_public``.
        """
        given = {"url": url, "events": list(events) if events else None, "name": name}
        response = self._connection.send("POST", "/v1/webhooks", json=_without_none(given))
        return self._connection.read(response, NewWebhook)

    def list(self) -> Iterator[Webhook]:
        """Yield every webhook, newest first."""
        return every(self._connection, "/v1/webhooks", Webhook)

    def get(self, webhook_id: str) -> Webhook:
        """Return one webhook."""
        return self._connection.get(_path(webhook_id), Webhook)

    def change(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        events: Sequence[str] | None = None,
        name: str | None = None,
        status: Literal["active", "disabled"] | None = None,
    ) -> Webhook:
        """Change what is given."""
        given = {"url": url, "events": list(events) if events else None, "name": name, "status": status}
        response = self._connection.send("PATCH", _path(webhook_id), json=_without_none(given))
        return self._connection.read(response, Webhook)

    def rotate(self, webhook_id: str, *, grace_hours: float = 24) -> NewWebhook:
        """Give a webhook another secret; for some hours, what is sent is signed with the one before, too."""
        response = self._connection.send("POST", f"{_path(webhook_id)}/rotate", json={"grace_hours": grace_hours})
        return self._connection.read(response, NewWebhook)

    def test(self, webhook_id: str) -> Delivery:
        """Send a webhook something; ``deliveries`` tells what came of it."""
        return self._connection.read(self._connection.send("POST", f"{_path(webhook_id)}/test"), Delivery)

    def deliveries(self, webhook_id: str) -> Iterator[Delivery]:
        """Yield what was, is and will be sent to a webhook, newest first."""
        return every(self._connection, f"{_path(webhook_id)}/deliveries", Delivery)

    def delete(self, webhook_id: str) -> None:
        """Remove a webhook, its deliveries, and what was to be sent to it."""
        self._connection.send("DELETE", _path(webhook_id))


def _path(webhook_id: str) -> str:
    return f"/v1/webhooks/{segment(webhook_id)}"


def _without_none(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}
