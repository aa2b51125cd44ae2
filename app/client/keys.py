"""API keys; working with them takes an admin's key."""

from collections.abc import Iterator, Sequence

from app.client.connection import Connection, segment
from app.client.jobs import every
from app.client.resources import Key, NewKey


class Keys:
    """The keys of all tenants."""

    def __init__(self, connection: Connection) -> None:
        """Work over a connection."""
        self._connection = connection

    def create(self, name: str, *, scopes: Sequence[str] = ("read", "write"), tenant: str | None = None) -> NewKey:
        """Make a key, by default for the caller's own tenant; its text is in this answer only."""
        asked = {"name": name, "scopes": list(scopes), "tenant": tenant}
        return self._connection.read(self._connection.send("POST", "/v1/keys", json=asked), NewKey)

    def list(self) -> Iterator[Key]:
        """Yield every key that was not revoked, newest first."""
        return every(self._connection, "/v1/keys", Key)

    def revoke(self, key_id: str) -> None:
        """End a key at once."""
        self._connection.send("DELETE", f"/v1/keys/{segment(key_id)}")
