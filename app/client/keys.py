"""API keys; but for a key's own, working with them takes an admin's."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from app.client.connection import Connection, segment
from app.client.jobs import every
from app.client.resources import Key, NewKey


class Keys:
    """The keys of all tenants."""

    def __init__(self, connection: Connection) -> None:
        """Work over a connection."""
        self._connection = connection

    def create(
        self,
        name: str,
        *,
        scopes: Sequence[str] = ("read", "write"),
        tenant: str | None = None,
        user: str | None = None,
        expires_at: datetime | None = None,
    ) -> NewKey:
        """Make a key; its text is in this answer only.

        Args:
            name: what it is for.
            scopes: read, write, admin.
            tenant: whose it is; by default the caller's.
            user: who will use it.
            expires_at: when it ends by itself, with its time zone.
        """
        asked = {"name": name, "scopes": list(scopes), "tenant": tenant, "user": user}
        asked["expires_at"] = expires_at.isoformat() if expires_at else None
        return self._connection.read(self._connection.send("POST", "/v1/keys", json=asked), NewKey)

    def list(self, *, tenant: str | None = None, user: str | None = None) -> Iterator[Key]:
        """Yield every key that was not revoked, newest first; of one tenant, or one user."""
        return every(self._connection, "/v1/keys", Key, tenant=tenant, user=user)

    def get(self, key_id: str = "me") -> Key:
        """Return a key, by default the one that this client has."""
        return self._connection.get(_path(key_id), Key)

    def rotate(self, key_id: str = "me", *, grace_hours: float = 24) -> NewKey:
        """Give a key, by default the one that this client has, a new secret; its text is in this answer only.

        Args:
            key_id: of the key.
            grace_hours: how long the secret before is good for yet.
        """
        response = self._connection.send("POST", f"{_path(key_id)}/rotate", json={"grace_hours": grace_hours})
        return self._connection.read(response, NewKey)

    def revoke(self, key_id: str) -> None:
        """End a key at once."""
        self._connection.send("DELETE", _path(key_id))


def _path(key_id: str) -> str:
    return f"/v1/keys/{segment(key_id)}"
