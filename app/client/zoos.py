"""Named parts of the zoo, which all tenants share; changing them takes an admin's key."""

from collections.abc import Iterator, Sequence

from app.client.connection import Connection, segment
from app.client.jobs import every
from app.client.zoo import Zoo


class Zoos:
    """The zoos."""

    def __init__(self, connection: Connection) -> None:
        """Work over a connection."""
        self._connection = connection

    def list(self) -> Iterator[Zoo]:
        """Yield every zoo, newest first."""
        return every(self._connection, "/v1/zoos", Zoo)

    def get(self, name: str) -> Zoo:
        """Return one zoo."""
        return self._connection.get(_path(name), Zoo)

    def put(self, name: str, models: Sequence[str], *, description: str = "") -> Zoo:
        """Make a zoo, or give it these members and this description in place of what it had.

        Args:
            name: lower-case letters, digits, ``.``, ``_`` and ``-``.
            models: names of models, not ids.
            description: for people.

        Raises:
            ApiError: such as ``unknown_model``.
        """
        asked = {"description": description, "models": list(models)}
        response = self._connection.send("PUT", _path(name), repeatable=True, json=asked)
        return self._connection.read(response, Zoo)

    def delete(self, name: str) -> None:
        """Remove a zoo; its models stay."""
        self._connection.send("DELETE", _path(name))


def _path(name: str) -> str:
    return f"/v1/zoos/{segment(name)}"
