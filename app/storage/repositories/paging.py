"""Cursor pages over (created_at, id): stable while rows are added, cheap at any depth."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session

from app.domain.errors import BadRequest

Row = TypeVar("Row")

_ID = re.compile(r"[a-z]+_[0-9a-z]+")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Some rows, newest first, and where the next page begins."""

    rows: Sequence[Row]
    next_cursor: str | None


def page(session: Session, query: Select[Row], table: Any, *, limit: int, cursor: str | None) -> Page[Row]:
    """Run ``query`` from ``cursor`` on, newest first.

    Raises:
        BadRequest: ``invalid_cursor``, for a cursor that no list returned.
    """
    if cursor:
        query = query.where(tuple_(table.created_at, table.id) < _decode(cursor))
    rows = list(session.scalars(query.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1)))
    if len(rows) <= limit:
        return Page(rows, None)
    last: Any = rows[limit - 1]
    text = f"{last.created_at.isoformat()}|{last.id}"
    return Page(rows[:limit], base64.urlsafe_b64encode(text.encode()).decode().rstrip("="))


def _decode(cursor: str) -> tuple[datetime, str]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        moment, row_id = base64.urlsafe_b64decode(padded.encode("ascii")).decode().split("|")
        created_at = datetime.fromisoformat(moment)
        if created_at.tzinfo is None or not _ID.fullmatch(row_id):
            raise ValueError("not made by a list")
        return created_at.astimezone(UTC), row_id
    except (ValueError, OverflowError) as error:
        raise BadRequest(
            "invalid_cursor",
            "The cursor is not one that this list returned.",
            param="after",
            hint="Leave `after` out to start from the newest entry.",
        ) from error
