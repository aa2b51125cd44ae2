"""The shapes that all resources share: strict requests, lists, links, progress."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from app.domain.errors import BadRequest
from app.domain.retention import LONGEST_DAYS
from app.storage.repositories.paging import Page

Item = TypeVar("Item")
Row = TypeVar("Row")

Limit = Annotated[int, Query(ge=1, le=200, description="How many entries a page holds.")]
After = Annotated[str | None, Query(description="`next_cursor` of the page before.")]

MAX_NAME_LENGTH = 200
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_MAX_DEPTH = 32
_MAX_NUMBER = 2**63


def is_storable(text: str) -> bool:
    """Tell whether every database can store a text: not with NUL or half a surrogate pair in it."""
    return _UNSTORABLE.search(text) is None


def storable(value: Any) -> Any:
    """Return a JSON value that every database takes.

    Raises:
        PydanticCustomError: a text in it is not storable, a whole number too large, or the nesting too deep.
    """
    waiting = [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise PydanticCustomError("too_deep", "Nested more than {depth} levels deep", {"depth": _MAX_DEPTH})
        if isinstance(part, str) and not is_storable(part):
            raise PydanticCustomError("unstorable", "Text must not contain NUL or unpaired surrogates")
        if isinstance(part, int) and abs(part) >= _MAX_NUMBER:
            raise PydanticCustomError("out_of_range", "A whole number has more than 64 bits")
        if isinstance(part, list):
            waiting += [(item, depth + 1) for item in part]
        if isinstance(part, dict):
            waiting += [(item, depth + 1) for pair in part.items() for item in pair]
    return value


async def refuse_unstorable_url(request: Request) -> None:
    """Refuse a request whose URL has a NUL in it: no id, name or cursor has, and not every database takes it."""
    if "\x00" in request.url.path or b"%00" in request.scope["query_string"]:
        raise BadRequest(
            "invalid_request", "The URL contains a NUL character.", param="url", hint="Take %00 out of the URL."
        )


RetentionDays = Annotated[
    float,
    Field(
        gt=0, le=LONGEST_DAYS, description="Delete it so many days after now; without it, as the service is set up to."
    ),
]
Text = Annotated[str, AfterValidator(storable)]
Name = Annotated[Text, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
JsonObject = Annotated[dict[str, Any], AfterValidator(storable)]


class StrictModel(BaseModel):
    """A request body: a field it does not know is refused, so that a typo is not lost.

    Values have to be of the field's JSON type: ``"0.1"`` and ``true`` are no numbers, nor are ``NaN`` and ``Infinity``,
    which JSON does not have.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """Take ``32.0`` for a whole number, as JSON does, which has one kind of number alone."""
        return int(value) if isinstance(value, float) and value.is_integer() else value


class ListOf(BaseModel, Generic[Item]):
    """One page, newest first."""

    data: list[Item]
    has_more: bool
    next_cursor: str | None

    @classmethod
    def of(cls, page: Page[Row], view: Callable[[Row], Item]) -> "ListOf[Item]":
        """Return a page of rows as users see them."""
        return ListOf(
            data=[view(row) for row in page.rows], has_more=page.next_cursor is not None, next_cursor=page.next_cursor
        )


class Notice(BaseModel):
    """Something that the user should know."""

    code: str
    detail: str
    model: str | None = None


class Progress(BaseModel):
    """How far a job has come."""

    stage: str
    done: int
    total: int
