"""What webhooks tell, and how it is signed: the symmetric scheme of Standard Webhooks 1.0.

    webhook-id         the same at every attempt, to drop what came twice
    webhook-timestamp  seconds since 1970 of this attempt
    webhook-signature  one or more of "v1,<base64 of HMAC-SHA256 of id.timestamp.body>", separated by spaces

A secret is shown as "whsec_" and the base64 of its key.
"""

import base64
import binascii
import hashlib
import hmac
import random
from enum import StrEnum


class Event(StrEnum):
    """What can be told."""

    DATASET_READY = "dataset.ready"
    DATASET_REJECTED = "dataset.rejected"
    SELECTION_REVISION = "selection.revision"
    SELECTION_COMPLETED = "selection.completed"
    FINETUNE_COMPLETED = "finetune.completed"


TEST_EVENT = "webhook.test"
"""Sent on demand, whatever events a webhook is for."""


class WebhookState(StrEnum):
    """Whether events are sent to a webhook."""

    ACTIVE = "active"
    DISABLED = "disabled"


class DeliveryState(StrEnum):
    """What has become of one event for one webhook."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    """A later revision of the same selection took its place before it arrived."""


REVISION_SECONDS = 5.0
"""A webhook hears of a selection's revisions at most this often; of those between it hears the newest."""

MOST_ATTEMPTS = 11
_FIRST_PAUSE_SECONDS = 5.0
_PAUSE_FACTOR = 4.0
LONGEST_PAUSE_SECONDS = 6 * 3600.0
_JITTER = 0.2

_PREFIX = "whsec_"
_KEY_BYTES = range(24, 65)
_VERSION = "v1"


def pause_seconds(attempts: int) -> float:
    """Return how long to wait after so many attempts: 5 s, 20 s, 80 s ... at most 6 h, a fifth more or less each.

    Eleven attempts take a day and an hour and a half.
    """
    pause = min(_FIRST_PAUSE_SECONDS * _PAUSE_FACTOR ** (attempts - 1), LONGEST_PAUSE_SECONDS)
    return pause * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  (nothing secret depends on it)


def derive_key(service_secret: bytes, webhook_id: str, salt: str) -> bytes:
    """Return the key that signs what is sent to a webhook, 32 bytes."""
    return hmac.digest(service_secret, f"webhook.{webhook_id}.{salt}".encode(), hashlib.sha256)


def key_check(key: bytes) -> str:
    """Return by what a key can be recognized, and nothing more."""
    return hashlib.sha256(b"check." + key).hexdigest()[:16]


def secret_text(key: bytes) -> str:
    """Return a key as it is shown: ``whsec_...``."""
    return _PREFIX + base64.b64encode(key).decode()


def read_secret(text: str) -> bytes:
    """Return the key of a secret, with or without its prefix.

    Raises:
        ValueError: it is none.
    """
    try:
        key = base64.b64decode(text.strip().removeprefix(_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("the secret of a webhook is whsec_ and base64") from error
    if len(key) not in _KEY_BYTES:
        raise ValueError(f"the secret of a webhook has 24 to 64 bytes, not {len(key)}")
    return key


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return one signature of a message: ``v1,...``."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return f"{_VERSION},{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"


def is_signed(key: bytes, message_id: str, timestamp: int, body: bytes, signatures: str) -> bool:
    """Tell whether one of some signatures, separated by spaces, is this key's; each is compared in constant time."""
    expected = sign(key, message_id, timestamp, body).encode()
    return any(hmac.compare_digest(expected, one.encode()) for one in signatures.split())
