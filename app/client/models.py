"""Models: the zoo."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from app.client.connection import Connection, segment
from app.client.jobs import every, wait_for
from app.client.resources import Import, Model


class Models:
    """The zoo, which all tenants share; changing it takes an admin's key."""

    def __init__(self, connection: Connection) -> None:
        """Work over a connection."""
        self._connection = connection

    def list(self, status: str | None = None) -> Iterator[Model]:
        """Yield every model version, newest first; with ``status`` only those in it."""
        return every(self._connection, "/v1/models", Model, status=status)

    def get(self, model_id: str) -> Model:
        """Return one model version."""
        return self._connection.get(f"/v1/models/{segment(model_id)}", Model)

    def register(self, spec: Mapping[str, Any]) -> Model:
        """Add a model, or a new version of one; the same specification again is the same version."""
        response = self._connection.send("POST", "/v1/models", repeatable=True, json=dict(spec))
        return self._connection.read(response, Model)

    def import_manifest(self, manifest: str, *, dry_run: bool = False) -> Import:
        """Register the models of a YAML manifest; every row has a verdict, and wrong ones spoil no other.

        Args:
            manifest: ``models:`` and a list of specifications.
            dry_run: only say what would become of every row.
        """
        response = self._connection.send(
            "POST",
            "/v1/models/import",
            repeatable=True,
            params={"dry_run": "true"} if dry_run else None,
            headers={"Content-Type": "application/yaml"},
            content=manifest.encode(),
        )
        return self._connection.read(response, Import)

    def wait(
        self, model_id: str, *, timeout: float | None = None, on_change: Callable[[Model], None] | None = None
    ) -> Model:
        """Return a model once its checks have ended; ``on_change`` sees it whenever something changed.

        Raises:
            JobFailed: it was rejected.
            WaitTimedOut: the checks have not ended within ``timeout`` seconds.
        """
        return wait_for(
            self._connection, f"/v1/models/{segment(model_id)}", Model, timeout=timeout, on_change=on_change
        )

    def enable(self, model_id: str, reason: str | None = None) -> Model:
        """Use a disabled model again."""
        return self._switch(model_id, "active", reason)

    def disable(self, model_id: str, reason: str | None = None) -> Model:
        """Leave a model out of later selections."""
        return self._switch(model_id, "disabled", reason)

    def _switch(self, model_id: str, status: str, reason: str | None) -> Model:
        patch = {"status": status, "reason": reason}
        return self._connection.read(
            self._connection.send("PATCH", f"/v1/models/{segment(model_id)}", json=patch), Model
        )
