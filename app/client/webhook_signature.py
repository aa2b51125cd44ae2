"""For those who receive webhooks: whether a request is from the service, and what it tells."""

import json
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from app.client.errors import Failure
from app.client.resources import Resource
from app.domain.webhooks import is_signed, read_secret


class WebhookEvent(Resource):
    """What a webhook tells; ``id`` is the same whenever it is sent again."""

    id: str
    type: str
    timestamp: datetime
    data: dict[str, Any]


def verify_webhook(
    headers: Mapping[str, str],
    body: bytes,
    secret: str,
    *,
    tolerance_seconds: float = 300,
    now: float | None = None,
) -> WebhookEvent:
    """Return what a request tells, if the service has sent it, and lately.

    Args:
        headers: of the request; the case of their names does not matter.
        body: of the request, as it came: not parsed and written again.
        secret: of the webhook, ``whsec_...``.
        tolerance_seconds: how far the request's clock may be from this one's.
        now: seconds since 1970, if not those of this machine.

    Raises:
        Failure: ``webhook_not_signed``, ``webhook_too_old``, ``webhook_signature_wrong`` or ``invalid_webhook_secret``.
    """
    found = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, signatures = found["webhook-id"], found["webhook-signature"]
        timestamp = int(found["webhook-timestamp"])
    except (KeyError, ValueError) as error:
        raise Failure(
            "webhook_not_signed",
            "The request has no webhook-id, webhook-timestamp and webhook-signature.",
            hint="Answer 400: it is not from Foretune.",
        ) from error
    try:
        key = read_secret(secret)
    except ValueError as error:
        raise Failure(
            "invalid_webhook_secret", f"{error}.", param="secret", hint="Rotate it: foretune webhook rotate."
        ) from error
    if not is_signed(key, message_id, timestamp, body, signatures):
        raise Failure(
            "webhook_signature_wrong",
            "No signature of the request is that of its body.",
            hint="Verify the body as it came, byte by byte, with the secret of this webhook. Answer 400.",
        )
    moment = time.time() if now is None else now
    if abs(moment - timestamp) > tolerance_seconds:
        raise Failure(
            "webhook_too_old",
            f"The request was signed {moment - timestamp:.0f} seconds ago: somebody may be sending it again.",
            hint="Check this machine's clock. Answer 400.",
        )
    try:
        return WebhookEvent(**{**json.loads(body), "id": message_id})
    except (ValueError, TypeError) as error:
        raise Failure("webhook_not_signed", "The body is not an event.", hint="Answer 400.") from error
