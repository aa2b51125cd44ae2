"""Signatures as Standard Webhooks 1.0 has them, and the pauses between attempts."""

import hashlib
import hmac
import time
from base64 import b64decode, b64encode

import pytest

from app.client import Failure, verify_webhook
from app.domain.webhooks import MOST_ATTEMPTS, derive_key, pause_seconds, read_secret, secret_text, sign

KEY = bytes(range(32))
SECRET = "whsec_" + b64encode(KEY).decode()
BODY = b'{"type":"selection.completed","timestamp":"2026-11-22T06:00:00Z","data":{"id":"sel_1","status":"done"}}'


def headers(body: bytes = BODY, *, key: bytes = KEY, timestamp: float | None = None) -> dict[str, str]:
    moment = int(time.time() if timestamp is None else timestamp)
    return {
        "Webhook-Id": "msg_1",
        "Webhook-Timestamp": str(moment),
        "Webhook-Signature": sign(key, "msg_1", moment, body),
    }


def code(headers: dict[str, str], body: bytes = BODY, secret: str = SECRET) -> str:
    with pytest.raises(Failure) as refused:
        verify_webhook(headers, body, secret)
    return refused.value.code


def test_a_signature_is_that_of_the_standard() -> None:
    """The scheme, written down once more."""
    version, _, signature = sign(KEY, "msg_1", 1674087231, BODY).partition(",")
    assert version == "v1"
    assert b64decode(signature) == hmac.new(KEY, b"msg_1.1674087231." + BODY, hashlib.sha256).digest()


def test_what_was_signed_is_told() -> None:
    event = verify_webhook(headers(), BODY, SECRET)
    assert (event.id, event.type, event.data) == ("msg_1", "selection.completed", {"id": "sel_1", "status": "done"})
    assert event.timestamp.isoformat() == "2026-11-22T06:00:00+00:00"
    assert verify_webhook({name.lower(): value for name, value in headers().items()}, BODY, SECRET) == event


def test_one_good_signature_of_several_is_enough() -> None:
    signed = headers()
    signed["Webhook-Signature"] = f"v1a,other v1,{b64encode(b'x' * 32).decode()} {signed['Webhook-Signature']}"
    verify_webhook(signed, BODY, SECRET)


def test_anything_else_is_refused() -> None:
    assert code(headers(), BODY + b" ") == "webhook_signature_wrong"
    assert code(headers(key=b"y" * 32)) == "webhook_signature_wrong"
    assert code({**headers(), "Webhook-Id": "msg_2"}) == "webhook_signature_wrong"
    assert code({**headers(), "Webhook-Timestamp": str(int(time.time()) + 1)}) == "webhook_signature_wrong"
    assert code({**headers(), "Webhook-Signature": ""}) == "webhook_signature_wrong"
    assert code({**headers(), "Webhook-Signature": "v1,\xe4"}) == "webhook_signature_wrong"
    assert code(headers(timestamp=time.time() - 301)) == "webhook_too_old"
    assert code(headers(timestamp=time.time() + 302)) == "webhook_too_old"
    assert code({**headers(), "Webhook-Timestamp": "now"}) == "webhook_not_signed"
    assert code({}) == "webhook_not_signed"
    assert code(headers(b"[]"), b"[]") == "webhook_not_signed"
    assert code(headers(), secret="whsec_short") == "invalid_webhook_secret"
    assert code(headers(), secret="whsec_" + b64encode(b"short").decode()) == "invalid_webhook_secret"


def test_a_secret_is_read_as_it_was_written() -> None:
    assert read_secret(secret_text(KEY)) == read_secret(secret_text(KEY).removeprefix("whsec_")) == KEY


def test_every_webhook_and_every_rotation_has_its_own_key() -> None:
    found = {derive_key(b"s", "wh_1", "a"), derive_key(b"s", "wh_1", "b"), derive_key(b"s", "wh_2", "a")}
    found.add(derive_key(b"t", "wh_1", "a"))
    assert len(found) == 4
    assert {len(key) for key in found} == {32}


def test_pauses_grow_and_differ_and_take_about_a_day() -> None:
    assert 4 <= pause_seconds(1) <= 6
    assert len({pause_seconds(3) for _ in range(10)}) == 10
    total = sum(pause_seconds(attempt) for attempt in range(1, MOST_ATTEMPTS))
    assert 0.8 * 25.6 * 3600 <= total <= 1.2 * 25.6 * 3600
