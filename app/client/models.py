"""Models: the zoo."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.client.connection import Connection, segment
from app.client.jobs import every, wait_for
from app.client.numbers import check_finite
from app.client.sent_file import Observed, OnProgress, not_readable
from app.client.zoo import Import, Model, ModelEvent, Weights


class Models:
    """The zoo, which all tenants share; changing it takes an admin's key."""

    def __init__(self, connection: Connection) -> None:
        """Work over a connection."""
        self._connection = connection

    def list(
        self, status: str | None = None, *, constraints: Mapping[str, Any] | None = None, zoo: str | None = None
    ) -> Iterator[Model]:
        """Yield every model version, newest first.

        Args:
            status: only models in it.
            constraints: that the models satisfy, as a selection takes them: ``max_parameters``, ``max_gflops``,
                ``max_memory_bytes``, ``licenses``, ``families``, ``pretrained_on``, ``capabilities``, ``tags``.
            zoo: only its members.

        Raises:
            Failure: ``invalid_number``: a bound is not finite.
        """
        wanted = dict(constraints or {})
        check_finite(wanted)
        return every(self._connection, "/v1/models", Model, status=status, zoo=zoo, **wanted)

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
        """Use a disabled or deprecated model again."""
        return self._change(model_id, status="active", reason=reason)

    def disable(self, model_id: str, reason: str | None = None) -> Model:
        """Leave a model out of later selections."""
        return self._change(model_id, status="disabled", reason=reason)

    def deprecate(self, model_id: str, reason: str) -> Model:
        """Leave a model out of later selections that do not name it; those that do are told the reason."""
        return self._change(model_id, status="deprecated", reason=reason)

    def recheck(self, model_id: str, reason: str | None = None) -> Model:
        """Let the checks of a rejected or quarantined model run again."""
        return self._change(model_id, status="pending", reason=reason)

    def withdraw(self, model_id: str, reason: str | None = None) -> Model:
        """Stop the checks of a pending model, or of one that is being checked; it is rejected, ``model_withdrawn``."""
        return self._change(model_id, status="rejected", reason=reason)

    def tag(self, model_id: str, tags: Sequence[str]) -> Model:
        """Add tags to a model."""
        return self._change(model_id, add_tags=[*tags])

    def untag(self, model_id: str, tags: Sequence[str]) -> Model:
        """Take tags off a model, if it has them."""
        return self._change(model_id, remove_tags=[*tags])

    def set_tags(self, model_id: str, tags: Sequence[str]) -> Model:
        """Give a model these tags in place of those it has."""
        return self._change(model_id, tags=[*tags])

    def events(self, model_id: str) -> Iterator[ModelEvent]:
        """Yield the audit log of one model version, newest first."""
        return every(self._connection, f"/v1/models/{segment(model_id)}/events", ModelEvent)

    def upload(self, path: str | os.PathLike[str], *, on_progress: OnProgress | None = None) -> Weights:
        """Send a safetensors file, in constant memory; the same bytes again are the same object.

        Returns:
            What a model's source names: ``{"type": "upload", "sha256": weights.sha256}``.

        Raises:
            Failure: ``file_not_readable``.
            ApiError: such as ``unsafe_weights``.
        """
        if Path(path).exists() and not Path(path).is_file():
            raise not_readable(str(path), "it is no file")  # of a device or a pipe nobody knows the length
        try:
            with Path(path).open("rb") as file:
                observed = Observed(file, os.fstat(file.fileno()).st_size, on_progress)
                files = {"file": (Path(path).name, observed)}
                response = self._connection.send("POST", "/v1/weights", repeatable=True, files=files)
        except OSError as error:
            raise not_readable(str(path), error.strerror or str(error)) from error
        return self._connection.read(response, Weights)

    def _change(self, model_id: str, **patch: Any) -> Model:
        response = self._connection.send("PATCH", f"/v1/models/{segment(model_id)}", json=patch)
        return self._connection.read(response, Model)
