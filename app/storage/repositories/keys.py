"""API keys: 256 random bits, of which only a prefix and an HMAC are kept.

A key belongs to a tenant, and by its ``user`` to a person or a program. There is no table of users: nobody ever logs in
but with a key, so that a user would be a name and nothing else.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, Forbidden, NotFound, Unauthorized
from app.domain.ids import new_id
from app.storage.repositories.audit import record
from app.storage.repositories.paging import Page, page
from app.storage.tables import ApiKey, Tenant, now

SCOPES = ("read", "write", "admin")
USE_IS_NOTED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True)
class KnownKey:
    """A key that is good now.

    Attributes:
        row: the key.
        until: when this text of it stops being good, if that is known.
        is_previous: whether the key was rotated since, and this is the secret before.
    """

    row: ApiKey
    until: datetime | None
    is_previous: bool


class Keys:
    """The keys of all tenants: but for its own one, only admins of the whole service work with them."""

    def __init__(self, session: Session, secret: bytes, *, actor: str = "the service") -> None:
        """Work in one transaction, with the HMAC key of this service; ``actor`` is who the audit log will name."""
        self._session = session
        self._secret = secret
        self._actor = actor

    def create(
        self,
        *,
        tenant: str,
        name: str,
        scopes: list[str],
        user: str | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key and return its row and the key itself, which cannot be read again."""
        prefix = secrets.token_hex(6)
        text = _new_text(prefix)
        row = ApiKey(
            id=new_id("key"),
            tenant=tenant,
            name=name,
            user=user,
            prefix=prefix,
            digest=self._digest(text),
            scopes=scopes,
            expires_at=expires_at,
        )
        self._session.add(row)
        self._session.flush()
        expiry = expires_at.isoformat() if expires_at else None
        self._record("key_created", row, {"name": name, "user": user, "scopes": scopes, "expires_at": expiry})
        return row, text

    def accept(self, text: str, *, tenant: str, name: str, scopes: list[str]) -> bool:
        """Make a key of a text that was chosen elsewhere; False if there is one already, be it a revoked one."""
        prefix = text.split("_")[1]
        if self._session.scalar(select(ApiKey.id).where(ApiKey.prefix == prefix)) is not None:
            return False
        row = ApiKey(
            id=new_id("key"), tenant=tenant, name=name, prefix=prefix, digest=self._digest(text), scopes=scopes
        )
        self._session.add(row)
        self._session.flush()
        self._record("key_created", row, {"name": name, "user": None, "scopes": scopes, "expires_at": None})
        return True

    def authenticate(self, text: str) -> KnownKey:
        """Return the key of a text.

        Raises:
            Unauthorized: ``invalid_key``, for a key that does not exist, was revoked, or was rotated too long ago;
                ``expired_key``.
            Forbidden: ``tenant_suspended``.
        """
        parts = text.split("_", 2)
        prefix = parts[1] if len(parts) == 3 else ""
        query = select(ApiKey, Tenant.suspended_at).outerjoin(Tenant, Tenant.name == ApiKey.tenant)
        found = self._session.execute(query.where(ApiKey.prefix == prefix, ApiKey.revoked_at.is_(None))).one_or_none()
        row: ApiKey | None = found[0] if found else None
        moment = now()
        previous = row.previous_digest if row and row.previous_until and moment < row.previous_until else None
        digest = self._digest(text)
        # An unknown prefix is compared too, and an unknown predecessor, so that the answer takes as long.
        is_current = hmac.compare_digest(row.digest if row else _NO_DIGEST, digest)
        is_previous = hmac.compare_digest(previous or _NO_DIGEST, digest)
        if row is None or found is None or not (is_current or is_previous):
            raise Unauthorized(
                "invalid_key",
                "The API key does not exist, was revoked, or was replaced by a rotation.",
                hint="Send `Authorization: Bearer <key>`; the embedded preset's key lies in $FORETUNE_HOME/admin.key.",
            )
        if row.expires_at is not None and row.expires_at <= moment:
            raise Unauthorized(
                "expired_key",
                f"The API key {row.id} expired at {row.expires_at:%Y-%m-%dT%H:%M:%SZ}.",
                hint="Ask an admin for a new one: POST /v1/keys.",
            )
        if found.suspended_at is not None and "admin" not in row.scopes:
            raise Forbidden(
                "tenant_suspended",
                f"Tenant {row.tenant} is suspended since {found.suspended_at:%Y-%m-%dT%H:%M:%SZ}.",
                hint="Nothing of it is lost; an admin of the service resumes it: PATCH /v1/tenants/{name}.",
            )
        ends = [end for end in (row.expires_at, None if is_current else row.previous_until) if end is not None]
        return KnownKey(row, min(ends, default=None), is_previous=not is_current)

    def rotate(self, key_id: str, *, grace: timedelta) -> tuple[ApiKey, str]:
        """Give a key a new secret, and return its row and its new text; the secret before is good for ``grace`` more.

        A secret that was replaced by an earlier rotation ends now.

        Raises:
            NotFound: ``key_not_found``.
        """
        row = self.get(key_id, lock=True)
        text = _new_text(row.prefix)
        moment = now()
        row.previous_digest, row.previous_until = row.digest, moment + grace
        row.digest, row.rotated_at = self._digest(text), moment
        self._session.flush()
        self._record("key_rotated", row, {"previous_until": row.previous_until.isoformat()})
        return row, text

    def get(self, key_id: str, *, lock: bool = False) -> ApiKey:
        """Return one key that was not revoked.

        Raises:
            NotFound: ``key_not_found``.
        """
        query = select(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
        row = self._session.scalar(query.with_for_update() if lock else query)
        if row is None:
            raise key_not_found(key_id)
        return row

    def page(
        self, *, limit: int, cursor: str | None, tenant: str | None = None, user: str | None = None
    ) -> Page[ApiKey]:
        """List the keys that were not revoked, newest first; of one tenant, or one user."""
        query = select(ApiKey).where(ApiKey.revoked_at.is_(None))
        for column, wanted in ((ApiKey.tenant, tenant), (ApiKey.user, user)):
            if wanted is not None:
                query = query.where(column == wanted)
        return page(self._session, query, ApiKey, limit=limit, cursor=cursor)

    def revoke(self, key_id: str) -> None:
        """End a key.

        Raises:
            NotFound: ``key_not_found``.
            Conflict: ``last_admin_key``, for the only key by which others could be made.
        """
        has_other_admins = self._has_other_admins(key_id)
        row = self.get(key_id)
        if "admin" in row.scopes and not has_other_admins:
            raise Conflict(
                "last_admin_key",
                f"{key_id} is the last admin key that does not expire: without it nobody could make keys any more.",
                param="key",
                hint="Make another admin key first: POST /v1/keys.",
            )
        row.revoked_at = now()
        self._session.flush()
        self._record("key_revoked", row, {"name": row.name, "user": row.user})

    def exists_any(self) -> bool:
        """Tell whether any key was ever made."""
        return self._session.scalar(select(ApiKey.id).limit(1)) is not None

    def _has_other_admins(self, key_id: str) -> bool:
        # All lasting keys are locked, in one order: of two admins who are revoked at once, one stays.
        lasting = [ApiKey.revoked_at.is_(None), ApiKey.expires_at.is_(None)]
        query = select(ApiKey.id, ApiKey.scopes).where(*lasting).order_by(ApiKey.id).with_for_update()
        return any("admin" in scopes and other != key_id for other, scopes in self._session.execute(query).all())

    def _record(self, action: Any, row: ApiKey, details: dict[str, Any]) -> None:
        record(self._session, actor=self._actor, tenant=row.tenant, action=action, target=row.id, details=details)

    def _digest(self, text: str) -> str:
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()


def note_uses(session: Session, used_at: Mapping[str, datetime]) -> None:
    """Note when keys, by their ids, were used last; of each, once a minute and no more often."""
    for key_id, moment in sorted(used_at.items()):
        is_stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < moment - USE_IS_NOTED_EVERY)
        session.execute(
            update(ApiKey)
            .where(ApiKey.id == key_id, is_stale)
            .values(last_used_at=moment)
            .execution_options(synchronize_session=False)
        )


def key_not_found(key_id: str) -> NotFound:
    """Return the error of a key that does not exist, was revoked, or is not the caller's to see."""
    return NotFound("key_not_found", f"There is no key {key_id}.", param="key", hint="List keys: GET /v1/keys.")


_NO_DIGEST = "0" * 64


def _new_text(prefix: str) -> str:
    return f"ft_{prefix}_{secrets.token_urlsafe(32)}"
