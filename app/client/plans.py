"""Plans: how long a selection would take."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.client.connection import Connection
from app.client.resources import Notice, Resource


class PlannedModel(Resource):
    """What one model would take."""

    name: str
    seconds: float


class Plan(Resource):
    """What a selection would take; ``interval`` is None where past evaluations do not tell it."""

    images: int
    models: int
    workers: int
    device: str
    seconds: float
    interval: tuple[float, float] | None
    first_seconds: float
    worker_seconds: float
    evaluations: int
    slowest: list[PlannedModel]
    unmeasured: list[str]
    warnings: list[Notice]


class Plans:
    """Foretells how long selections take."""

    def __init__(self, connection: Connection) -> None:
        """Work over a connection."""
        self._connection = connection

    def make(
        self,
        images: int,
        *,
        models: int | None = None,
        workers: int | None = None,
        device: str | None = None,
        scores: Sequence[str] | None = None,
        forecast: bool = False,
        zoo: str | None = None,
        constraints: Mapping[str, Any] | None = None,
    ) -> Plan:
        """Return what a selection of so many images would take.

        Args:
            images: of the data set.
            models: how many like those of the zoo; by default the zoo's.
            workers: how many; by default as many as are alive.
            device: their kind, as ``device`` of a plan names it; by default the most frequent of those that are alive.
            scores: as of a selection: those of gradients take longest.
            forecast: whether fine-tuning is forecast, too.
            zoo: only members of this named part of the zoo.
            constraints: that every model satisfies, as those of a selection.
        """
        asked = {
            "images": images,
            "models": models,
            "workers": workers,
            "device": device,
            "scores": scores,
            "zoo": zoo,
            **(constraints or {}),
        }
        params = {name: value for name, value in asked.items() if value is not None}
        response = self._connection.send("GET", "/v1/plan", params=params | {"forecast": str(forecast).lower()})
        return self._connection.read(response, Plan)
