"""What is known of a model: as its checks have found it, else as it was registered. Lists, results and filters agree.

The database reads the same out of the same JSON, by ``app.storage.repositories.model_filters``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Capability = Literal["features", "logits", "gradients"]

Json = Mapping[str, Any]

MEMORY_BATCH = "32"
"""The batch size, as a key of ``peak_bytes``, whose memory ``memory_bytes`` is."""


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """One model version; what is not known is None, or empty.

    Attributes:
        parameters: their number.
        gflops: 10^9 floating-point operations an image.
        memory_bytes: of the weights and a forward pass of 32 images; None also where so many do not fit.
        license: as the specification states it or its source does.
        family: such as ``resnet``.
        pretrained_on: data sets.
        capabilities: of features, logits and gradients, those that it has.
    """

    parameters: int | None
    gflops: float | None
    memory_bytes: float | None
    license: str
    family: str | None
    pretrained_on: tuple[str, ...]
    capabilities: tuple[Capability, ...]

    @classmethod
    def of(cls, spec: Json, facts: Json | None) -> "ModelDescription":
        """Describe a model.

        Args:
            spec: the specification as registered.
            facts: what its checks found, in ``resolved`` with what the source states; None before.
        """
        facts = facts or {}
        pretraining = _stated("pretraining", spec, facts) or {}
        has = facts.get("capabilities") or {}
        weights, peak = facts.get("weights_bytes"), (facts.get("peak_bytes") or {}).get(MEMORY_BATCH)
        capabilities: tuple[Capability, ...] = ("features", "logits", "gradients")
        return cls(
            parameters=facts.get("parameters"),
            gflops=facts.get("gflops"),
            memory_bytes=None if weights is None or peak is None else float(weights) + float(peak),
            license=_stated("license", spec, facts) or "",
            family=facts.get("family"),
            pretrained_on=tuple(pretraining.get("datasets", ())),
            capabilities=tuple(capability for capability in capabilities if has.get(capability) is True),
        )


def _stated(field: str, spec: Json, facts: Json) -> Any:
    resolved = (facts.get("resolved") or {}).get(field)
    return spec.get(field) if resolved is None else resolved
