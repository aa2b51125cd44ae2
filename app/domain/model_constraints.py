"""What a model has to be: small, free, of some family, pretrained on the right images. Slow and obvious, for one model.

The database answers the same for many, by ``app.storage.repositories.model_filters``.
"""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from app.domain.model_description import Capability, ModelDescription

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelConstraints:
    """Bounds and choices that a model has to satisfy all of; one that is None or empty says nothing.

    A model of which a fact is not known satisfies no constraint on it: one of unknown FLOPs no bound on them, one
    whose pass of 32 images does not fit no bound on memory. Texts are compared without the case of ASCII letters.

    Attributes:
        max_parameters: number of parameters, at most.
        max_gflops: 10^9 floating-point operations an image, at most.
        max_memory_bytes: weights and a forward pass of 32 images, at most.
        licenses: one of these is the model's.
        families: one of these is the model's, such as ``resnet``.
        pretrained_on: one of these data sets was among those it was pretrained on.
        capabilities: it has all of them.
        tags: it carries all of them.
    """

    max_parameters: float | None = None
    max_gflops: float | None = None
    max_memory_bytes: float | None = None
    licenses: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    pretrained_on: tuple[str, ...] = ()
    capabilities: tuple[Capability, ...] = ()
    tags: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Json | None) -> "ModelConstraints":
        """Return what ``as_dict`` stored."""
        fields: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in (data or {}).items()}
        return cls(**fields)

    def as_dict(self) -> dict[str, Any]:
        """Return the constraints that say something, as JSON-ready data."""
        stated = {name: getattr(self, name) for name in self.names}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in stated.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the constraints that say something."""
        return tuple(field.name for field in dataclasses.fields(self) if getattr(self, field.name) not in (None, ()))

    def satisfied_by(self, model: ModelDescription, tags: Collection[str]) -> bool:
        """Tell whether a model that carries these tags satisfies all of them."""
        return not self.broken_by(model, tags)

    def broken_by(self, model: ModelDescription, tags: Collection[str]) -> tuple[str, ...]:
        """Return the names of the constraints that a model breaks."""
        return tuple(name for name in self.names if not self._holds(name, model, tags))

    def _holds(self, name: str, model: ModelDescription, tags: Collection[str]) -> bool:
        wanted = getattr(self, name)
        if name in BOUNDS:
            value = bounded(name, model)
            return value is not None and value <= wanted
        if name == "licenses":
            return _lower(model.license) in map(_lower, wanted)
        if name == "families":
            return _lower(model.family) in map(_lower, wanted)
        if name == "pretrained_on":
            return not set(map(_lower, model.pretrained_on)).isdisjoint(map(_lower, wanted))
        if name == "capabilities":
            return set(model.capabilities).issuperset(wanted)
        return set(tags).issuperset(wanted)


UNCONSTRAINED = ModelConstraints()

BOUNDS = ("max_parameters", "max_gflops", "max_memory_bytes")


def bounded(name: str, model: ModelDescription) -> float | None:
    """Return the number that a constraint of ``BOUNDS`` is about; None where it is not known."""
    value = getattr(model, name.removeprefix("max_"))
    return None if value is None else float(value)


def _lower(text: str | None) -> str | None:
    """Return a text with its ASCII letters in lower case: the one mapping that no locale changes."""
    return None if text is None else text.encode().lower().decode()
