"""Fine-tunes: really train models, see how accurate they get, take the tuned weights home."""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from app.client.connection import Connection, segment
from app.client.jobs import every, wait_for
from app.client.numbers import check_finite
from app.client.tuned_models import Finetune


class Finetunes:
    """The fine-tunes of the key's tenant."""

    def __init__(self, connection: Connection) -> None:
        """Work over a connection."""
        self._connection = connection

    def create(
        self,
        dataset_id: str,
        models: Sequence[str],
        *,
        recipe: Mapping[str, Any] | None = None,
        budget_seconds: float | None = None,
        name: str | None = None,
        retention_days: float | None = None,
    ) -> Finetune:
        """Ask for models to be fine-tuned on a data set that is ready.

        Args:
            dataset_id: the data set.
            models: ids or names of active models, the most promising first.
            recipe: of the training: ``learning_rates``, ``batch_size``, ``epochs``, ``max_steps``, ``momentum``,
                ``weight_decay``, ``schedule``, ``loss``, ``seed`` and others; what is left out has its default.
            budget_seconds: of worker time, for all models together.
            name: for people; by default the data set's.
            retention_days: after how many days it is deleted; by default as the service is set up to.

        Raises:
            ApiError: such as ``dataset_not_ready``, ``unknown_model``, ``invalid_recipe``.
            Failure: ``invalid_number``: the budget, or a number of the recipe, is not finite.
        """
        training = dict(recipe or {})
        check_finite(training | {"budget_seconds": budget_seconds, "retention_days": retention_days})
        asked = {
            "dataset": dataset_id,
            "models": list(models),
            "recipe": training or None,
            "budget": {"worker_seconds": budget_seconds} if budget_seconds is not None else None,
            "name": name,
            "retention_days": retention_days,
        }
        response = self._connection.send(
            "POST",
            "/v1/finetunes",
            headers={"Idempotency-Key": uuid.uuid4().hex},
            repeatable=True,
            json={field: value for field, value in asked.items() if value is not None},
        )
        return self._connection.read(response, Finetune)

    def get(self, finetune_id: str) -> Finetune:
        """Return one fine-tune."""
        return self._connection.get(_path(finetune_id), Finetune)

    def list(self) -> Iterator[Finetune]:
        """Yield every fine-tune, newest first."""
        return every(self._connection, "/v1/finetunes", Finetune)

    def wait(
        self, finetune_id: str, *, timeout: float | None = None, on_change: Callable[[Finetune], None] | None = None
    ) -> Finetune:
        """Return a fine-tune once it is done or cancelled; ``on_change`` sees it whenever something changed.

        Raises:
            JobFailed: no model could be trained.
            WaitTimedOut: it has not ended within ``timeout`` seconds.
        """
        return wait_for(self._connection, _path(finetune_id), Finetune, timeout=timeout, on_change=on_change)

    def cancel(self, finetune_id: str) -> Finetune:
        """End a fine-tune; models that were trained by then stay readable."""
        response = self._connection.send("POST", f"{_path(finetune_id)}/cancel", repeatable=True)
        return self._connection.read(response, Finetune)

    def download(self, finetune_id: str, path: str | os.PathLike[str], *, model: str | None = None) -> Path:
        """Write the zip of tuned weights, model card and script, in constant memory.

        The file appears whole or not at all.

        Args:
            finetune_id: the fine-tune.
            path: of the file, which is replaced if it is there; its folder has to exist.
            model: id or name; by default the one that is best on the test images.

        Returns:
            The path.

        Raises:
            ApiError: ``weights_not_found``, ``weights_gone``.
            OSError: the file cannot be written.
        """
        target = Path(path)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        query = f"?{urlencode({'model': model})}" if model is not None else ""
        try:
            with (
                self._connection.stream(f"{_path(finetune_id)}/weights{query}", {}) as chunks,
                draft.open("wb") as file,
            ):
                for chunk in chunks:
                    file.write(chunk)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        return target


def _path(finetune_id: str) -> str:
    return f"/v1/finetunes/{segment(finetune_id)}"
