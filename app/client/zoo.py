"""What the service answers about the zoo: models, their audit log, named parts of the zoo, uploaded weights."""

from datetime import datetime
from typing import Any

from app.client.resources import Job, JobError, Resource
from app.domain.states import MODEL_TERMINAL


class Model(Job):
    """One version of a model of the zoo.

    ``license`` to ``capabilities`` are what its checks have found, else what was registered: what constraints go by.
    """

    terminal = frozenset[str](MODEL_TERMINAL)
    version: int
    spec: dict[str, Any]
    facts: dict[str, Any] | None
    checks: tuple[dict[str, Any], ...]
    license: str
    pretraining: tuple[str, ...]
    family: str | None
    parameters: int | None
    gflops: float | None
    memory_bytes: int | None
    capabilities: tuple[str, ...]
    tags: tuple[str, ...] = ()
    reason: str | None


class ImportedRow(Resource):
    """What became of a row of a manifest: ``verdict`` is new, new_version, known or invalid."""

    row: int
    name: str | None
    verdict: str
    model: str | None
    version: int | None
    error: JobError | None


class Import(Resource):
    """What became of a manifest."""

    dry_run: bool
    counts: dict[str, int]
    rows: tuple[ImportedRow, ...]


class ModelEvent(Resource):
    """One line of a model's audit log: ``actor`` did ``action``."""

    id: str
    at: datetime
    actor: str
    action: str
    reason: str | None
    details: dict[str, Any]


class Zoo(Resource):
    """A named part of the zoo; ``models`` are names, of which the active version belongs to it."""

    name: str
    description: str
    models: tuple[str, ...]
    created_at: datetime
    updated_at: datetime


class Weights(Resource):
    """An uploaded safetensors file, to be named in the source of a model."""

    sha256: str
    bytes: int
    tensors: int
