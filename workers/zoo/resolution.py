"""From what an admin stated to everything that its source states: pinned, and complete."""

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from app.domain.errors import BadRequest, ModelRejected
from app.domain.model_sources import PluginSource, TimmSource, TorchvisionSource, TransformersSource
from app.domain.model_spec import ModelSpec
from workers.zoo.hub import find_repository
from workers.zoo.hub_session import requests_of
from workers.zoo.plugin import described_by_plugin
from workers.zoo.timm_hub import find_timm, resolve_timm
from workers.zoo.torchvision_entry import resolve as resolve_torchvision
from workers.zoo.transfer import NEVER_STOPPED, Supervision, Transfer
from workers.zoo.transformers_hub import resolve_transformers

_NEVER_BY_SOURCE = {"name", "source", "notes"}


def pin(spec: ModelSpec, supervision: Supervision = NEVER_STOPPED) -> ModelSpec:
    """Return the specification with its source at a commit, where it names a branch or a tag of a repository.

    Raises:
        ModelRejected: ``weights_unavailable``, ``weights_unauthorized``, ``hub_unavailable``,
            ``unknown_weights_entry``, ``source_too_slow``.
        Interrupted: the work is to stop.
    """
    return _asked(supervision, lambda: _pinned(spec))


def _pinned(spec: ModelSpec) -> ModelSpec:
    source = spec.source
    if isinstance(source, TransformersSource):
        commit = find_repository(source.id, source.revision).commit
        return dataclasses.replace(spec, source=dataclasses.replace(source, revision=commit))
    if isinstance(source, TimmSource) and (repository := find_timm(source)) is not None:
        return dataclasses.replace(spec, source=dataclasses.replace(source, revision=repository.commit))
    return spec


def resolve(spec: ModelSpec, sha256: str, supervision: Supervision = NEVER_STOPPED) -> ModelSpec:
    """Return the specification with all that its source states; what the specification states itself stays.

    Args:
        spec: as ``pin`` returns it.
        sha256: hash of the original weights file, which pins the source.
        supervision: limits the time that the source is waited for, and ends it when the work is to stop.

    Raises:
        ModelRejected: ``unknown_weights_entry``, ``invalid_hub_config``, ``remote_code``, ``unknown_architecture``,
            ``incomplete_preprocessing``, ``unknown_plugin``, ``plugin_failed``, ``source_too_slow``; what the Hub may
            answer.
        Interrupted: the work is to stop.
    """
    return _asked(supervision, lambda: _resolved(spec, sha256))


def _asked(supervision: Supervision, question: Callable[[], ModelSpec]) -> ModelSpec:
    """Return what a source answers, which takes no more than the patience of a fetch: little has to come."""

    def ask(transfer: Transfer) -> ModelSpec:
        with requests_of(transfer):
            return question()

    with tempfile.TemporaryDirectory() as folder:
        return supervision.run(ask, Path(folder))


def _resolved(spec: ModelSpec, sha256: str) -> ModelSpec:
    source = spec.source
    if isinstance(source, TorchvisionSource):
        return resolve_torchvision(spec, sha256)
    if isinstance(source, TimmSource):
        return _checked(resolve_timm(spec, source, sha256))
    if isinstance(source, TransformersSource):
        return _checked(resolve_transformers(spec, source, sha256))
    if isinstance(source, PluginSource):
        return _resolve_plugin(spec, source, sha256)
    return spec


def _resolve_plugin(spec: ModelSpec, source: PluginSource, sha256: str) -> ModelSpec:
    stated: dict[str, Any] = spec.as_dict()
    for field in dataclasses.fields(spec):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if field.name not in _NEVER_BY_SOURCE and getattr(spec, field.name) == default:
            del stated[field.name]
    stated["source"]["sha256"] = sha256
    try:
        return _checked(ModelSpec.from_dict(described_by_plugin(source) | stated))
    except BadRequest as error:
        raise ModelRejected(
            "plugin_failed", f"the plug-in {source.plugin}: {error.message}", param=error.param, hint=error.hint
        ) from error


def _checked(spec: ModelSpec) -> ModelSpec:
    """Hold what a source states to the same rules as what an admin writes.

    Raises:
        ModelRejected: ``invalid_hub_config``.
    """
    if not spec.architecture:
        raise ModelRejected(
            "unknown_architecture",
            "neither the specification nor its source says how the network is built",
            param="architecture",
            hint="Add architecture: timm:NAME, torchvision:NAME or transformers:MODEL_TYPE.",
        )
    try:
        return ModelSpec.from_dict(spec.as_dict())
    except BadRequest as error:
        raise ModelRejected(
            "invalid_hub_config",
            f"the source states an impossible {error.message}",
            param=error.param,
            hint=f"State {error.param} in the specification.",
        ) from error
