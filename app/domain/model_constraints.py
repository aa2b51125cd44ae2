"""What a model has to be: small, free, of some family, pretrained on the right images. Slow and obvious, for one model.

The database answers the same for many, by ``app.storage.repositories.model_filters``.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Capability = Literal["features", "logits", "gradients"]

Json = Mapping[str, Any]

MEMORY_BATCH = "32"
"""The batch size, as a key of ``peak_bytes``, whose memory ``max_memory_bytes`` is about."""


@dataclass(frozen=True, kw_only=True)
class ModelConstraints:
    """Bounds and choices that a model has to satisfy all of; one that is None or empty says nothing.

    A model of which a fact is not known satisfies no constraint on it. Texts are compared without the case of ASCII
    letters.

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

    def satisfied_by(self, spec: Json, facts: Json | None, tags: Sequence[str]) -> bool:
        """Tell whether a model satisfies all of them.

        Args:
            spec: the specification as registered.
            facts: what its checks found; None before.
            tags: the model's own.
        """
        return not self.broken_by(spec, facts, tags)

    def broken_by(self, spec: Json, facts: Json | None, tags: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the constraints that a model breaks."""
        return tuple(name for name in self.names if not self._holds(name, spec, facts or {}, tags))

    def _holds(self, name: str, spec: Json, facts: Json, tags: Sequence[str]) -> bool:
        wanted = getattr(self, name)
        if name in BOUNDS:
            value = bounded_fact(name, facts)
            return value is not None and value <= wanted
        if name == "licenses":
            return _lower(stated("license", spec, facts)) in map(_lower, wanted)
        if name == "families":
            return _lower(facts.get("family")) in map(_lower, wanted)
        if name == "pretrained_on":
            saw = stated("pretraining", spec, facts) or {}
            return not set(map(_lower, saw.get("datasets", ()))).isdisjoint(map(_lower, wanted))
        if name == "capabilities":
            known = facts.get("capabilities") or {}
            return all(known.get(capability) is True for capability in wanted)
        return set(tags).issuperset(wanted)


UNCONSTRAINED = ModelConstraints()

BOUNDS = ("max_parameters", "max_gflops", "max_memory_bytes")


def bounded_fact(name: str, facts: Json) -> float | None:
    """Return the number that a constraint of ``BOUNDS`` is about; None where it is not known."""
    if name == "max_memory_bytes":
        weights, peak = facts.get("weights_bytes"), (facts.get("peak_bytes") or {}).get(MEMORY_BATCH)
        return None if weights is None or peak is None else float(weights) + float(peak)
    value = facts.get(name.removeprefix("max_"))
    return None if value is None else float(value)


def stated(field: str, spec: Json, facts: Json) -> Any:
    """Return a field of the specification, as the checks have resolved it where they have."""
    resolved = (facts.get("resolved") or {}).get(field)
    return spec.get(field) if resolved is None else resolved


def _lower(text: str | None) -> str | None:
    """Return a text with its ASCII letters in lower case: the one mapping that no locale changes."""
    return None if text is None else text.encode().lower().decode()
