"""Identifiers: a prefix that tells the kind, then 26 characters that sort by creation time."""

import secrets
import time
from typing import Literal

Prefix = Literal["ds", "mdl", "me", "zoo", "sel", "ev", "ft", "key", "ten", "aud", "wh", "msg"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread


def new_id(prefix: Prefix) -> str:
    """Return a fresh id such as ``ds_01k9...``: 48 bits of milliseconds, 80 random bits."""
    number = (int(time.time() * 1000) << 80) | secrets.randbits(80)
    digits = [_ALPHABET[(number >> shift) & 31] for shift in range(125, -5, -5)]
    return f"{prefix}_{''.join(digits)}"
