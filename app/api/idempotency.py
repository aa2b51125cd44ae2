"""Requests that may be sent twice: with an Idempotency-Key, the second one gets the first one's answer."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.storage.repositories.idempotency import IdempotencyKeys

IdempotencyKeyHeader = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=255, description="The same key again: the same answer."),
]


@dataclass(frozen=True)
class Answer:
    """Status and body of an answer, and whether the request was carried out now rather than before."""

    status: int
    body: dict[str, Any]
    is_new: bool

    @property
    def path(self) -> str:
        """Where what was made can be read."""
        path: str = self.body["links"]["self"]
        return path


def answer_once(
    session: Session,
    tenant: str,
    key: str | None,
    request: tuple[str, ...],
    carry_out: Callable[[], tuple[int, BaseModel]],
) -> Answer:
    """Carry a request out, unless it was before.

    Args:
        session: a writing transaction; the key, what the request does and its answer are committed together.
        tenant: whose key it is.
        key: the Idempotency-Key; without one, the request is always carried out.
        request: what tells this request from another: the resource, and what is asked for.
        carry_out: returns the status and the body of the answer.

    Raises:
        BadRequest: ``idempotency_key_reused``, for another request with this key.
    """
    if key is None:
        return _answer(*carry_out())
    keys = IdempotencyKeys(session, tenant)
    answered = keys.begin(key, hashlib.sha256("\n".join(request).encode()).hexdigest())
    if answered is not None:
        return Answer(*answered, is_new=False)
    answer = _answer(*carry_out())
    keys.finish(key, answer.status, answer.body)
    return answer


def _answer(status: int, body: BaseModel) -> Answer:
    return Answer(status, body.model_dump(mode="json"), is_new=True)
