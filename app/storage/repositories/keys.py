"""API keys: 256 random bits, of which only a prefix and an HMAC are kept."""

import hashlib
import hmac
import secrets

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.domain.errors import NotFound, Unauthorized
from app.domain.ids import new_id
from app.storage.repositories.paging import Page, page
from app.storage.tables import ApiKey, now

SCOPES = ("read", "write", "admin")


class Keys:
    """The keys of all tenants: only admins of the whole service work with them."""

    def __init__(self, session: Session, secret: bytes) -> None:
        """Work in one transaction, with the HMAC key of this service."""
        self._session = session
        self._secret = secret

    def create(self, *, tenant: str, name: str, scopes: list[str]) -> tuple[ApiKey, str]:
        """Make a key and return its row and the key itself, which cannot be read again."""
        prefix, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        text = f"ft_{prefix}_{secret}"
        row = ApiKey(
            id=new_id("key"), tenant=tenant, name=name, prefix=prefix, digest=self._digest(text), scopes=scopes
        )
        self._session.add(row)
        self._session.flush()
        return row, text

    def authenticate(self, text: str) -> ApiKey:
        """Return the row of a key.

        Raises:
            Unauthorized: ``invalid_key``, for a key that does not exist or was revoked.
        """
        parts = text.split("_", 2)
        prefix = parts[1] if len(parts) == 3 else ""
        row = self._session.scalar(select(ApiKey).where(ApiKey.prefix == prefix, ApiKey.revoked_at.is_(None)))
        # An unknown prefix is compared too, so that the answer takes as long.
        expected = row.digest if row is not None else "0" * 64
        if not hmac.compare_digest(expected, self._digest(text)) or row is None:
            raise Unauthorized(
                "invalid_key",
                "The API key does not exist or was revoked.",
                hint="Send `Authorization: Bearer <key>`; the embedded preset's key lies in $FORETUNE_HOME/admin.key.",
            )
        return row

    def page(self, *, limit: int, cursor: str | None) -> Page[ApiKey]:
        """List the keys that were not revoked, newest first."""
        query = select(ApiKey).where(ApiKey.revoked_at.is_(None))
        return page(self._session, query, ApiKey, limit=limit, cursor=cursor)

    def revoke(self, key_id: str) -> None:
        """End a key.

        Raises:
            NotFound: ``key_not_found``.
        """
        row = self._session.scalar(select(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None)))
        if row is None:
            raise NotFound("key_not_found", f"There is no key {key_id}.", param="key", hint="List keys: GET /v1/keys.")
        self._session.execute(update(ApiKey).where(ApiKey.id == key_id).values(revoked_at=now()))

    def exists_any(self) -> bool:
        """Tell whether any key was ever made."""
        return self._session.scalar(select(ApiKey.id).limit(1)) is not None

    def _digest(self, text: str) -> str:
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()
