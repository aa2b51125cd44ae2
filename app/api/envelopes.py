"""The shapes that all resources share: strict requests, lists, links, progress."""

from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, ConfigDict

Item = TypeVar("Item")

Limit = Annotated[int, Query(ge=1, le=200, description="How many entries a page holds.")]
After = Annotated[str | None, Query(description="`next_cursor` of the page before.")]


class StrictModel(BaseModel):
    """A request body: a field it does not know is refused, so that a typo is not lost."""

    model_config = ConfigDict(extra="forbid")


class ListOf(BaseModel, Generic[Item]):
    """One page, newest first."""

    data: list[Item]
    has_more: bool
    next_cursor: str | None


class Progress(BaseModel):
    """How far a job has come."""

    stage: str
    done: int
    total: int
