"""How long things are kept."""

from datetime import UTC, datetime, timedelta

LONGEST_DAYS = 36_500


def expiry(days: float | None) -> datetime | None:
    """Return when something expires that begins now and is to be kept for so many days; None: never."""
    return None if days is None else datetime.now(UTC) + timedelta(days=days)


def later(one: datetime | None, other: datetime | None) -> datetime | None:
    """Return the later of two expiries, of which None is never."""
    return None if one is None or other is None else max(one, other)
