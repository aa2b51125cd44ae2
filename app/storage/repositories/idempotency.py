"""Requests that may be sent twice and are carried out once."""

from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.domain.errors import BadRequest
from app.storage.tables import IdempotencyKey, now


class IdempotencyKeys:
    """The keys one tenant has sent. A key, what the request did and its answer are one transaction."""

    def __init__(self, session: Session, tenant: str) -> None:
        """See only keys of ``tenant``."""
        self._session = session
        self._tenant = tenant

    def begin(self, key: str, fingerprint: str) -> tuple[int, dict[str, Any]] | None:
        """Reserve a key, or return the status and body that the same request got before.

        Raises:
            BadRequest: ``idempotency_key_reused``, for another request with this key.
        """
        try:
            with self._session.begin_nested():
                self._session.add(IdempotencyKey(tenant=self._tenant, key=key, fingerprint=fingerprint))
                self._session.flush()
        except IntegrityError:
            return self._answer(key, fingerprint)
        return None

    def finish(self, key: str, status: int, body: dict[str, Any]) -> None:
        """Keep the answer to be given again."""
        self._session.execute(update(IdempotencyKey).where(*self._is(key)).values(status=status, body=body))

    def _answer(self, key: str, fingerprint: str) -> tuple[int, dict[str, Any]]:
        row = self._session.scalars(select(IdempotencyKey).where(*self._is(key))).one()
        if row.fingerprint != fingerprint:
            raise BadRequest(
                "idempotency_key_reused",
                "This Idempotency-Key was sent before with another request.",
                param="Idempotency-Key",
                hint="Make a fresh key for every new request.",
            )
        assert row.status is not None
        assert row.body is not None  # key and answer are committed together
        return row.status, row.body

    def _is(self, key: str) -> list[Any]:
        return [IdempotencyKey.tenant == self._tenant, IdempotencyKey.key == key]


def prune(session: Session, *, hours: float) -> None:
    """Forget keys older than ``hours``."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now() - timedelta(hours=hours)))
