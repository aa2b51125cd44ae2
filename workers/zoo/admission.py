"""Admission of a model to the zoo: named checks, in order, each with its outcome, its finding and its time.

B photos, D features, Z source classes
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from torch.utils.flop_counter import FlopCounterMode

from app.domain.errors import ModelRejected
from app.domain.model_spec import ModelSpec, PackageSource
from workers.zoo import known_photos, soundness
from workers.zoo.architectures import build_with, skeleton
from workers.zoo.containers import read
from workers.zoo.network import Network, load_network
from workers.zoo.sources import cached_weights
from workers.zoo.torchvision_entry import resolve

Outcome = Literal["pass", "warn", "fail"]


class Check(TypedDict):
    """One finished check, as it is stored and shown."""

    name: str
    outcome: Outcome
    detail: str
    seconds: float


class AdmissionRefused(ModelRejected):
    """A check failed; ``checks`` holds those before it and the failed one at the end."""

    def __init__(self, error: ModelRejected, checks: list[Check]) -> None:
        """Repeat ``error`` with the checks done so far."""
        super().__init__(error.code, error.message, param=error.param, hint=error.hint)
        self.checks = checks


@dataclass(frozen=True)
class Admission:
    """A model that passed.

    ``spec`` is the specification with everything filled in that the source states, ``weights`` its safetensors file.
    ``facts``: feature_dim, num_classes (None without a head), parameters, weights_sha256 (of the original file),
    weights_bytes (of the safetensors file), gflops (10^9 floating-point operations an image, a multiply-add being two).
    """

    spec: ModelSpec
    weights: Path
    checks: list[Check]
    facts: dict[str, Any]


@dataclass
class _Finding:
    """What a check found; it passes unless it warns or raises."""

    detail: str = ""
    outcome: Outcome = "pass"

    def warn(self, detail: str) -> None:
        self.detail, self.outcome = detail, "warn"


@dataclass
class _Checks:
    """The running list of checks."""

    on_check: Callable[[Check], None] | None
    done: list[Check] = field(default_factory=list)

    @contextmanager
    def check(self, name: str) -> Iterator[_Finding]:
        start = time.perf_counter()
        finding = _Finding()
        try:
            yield finding
        except ModelRejected as error:
            self._add(name, "fail", error.message, start)
            raise AdmissionRefused(error, self.done) from error
        self._add(name, finding.outcome, finding.detail, start)

    def _add(self, name: str, outcome: Outcome, detail: str, start: float) -> None:
        seconds = round(time.perf_counter() - start, 3)
        self.done.append(Check(name=name, outcome=outcome, detail=detail, seconds=seconds))
        if self.on_check is not None:
            self.on_check(self.done[-1])


def admit(spec: ModelSpec, cache: Path, *, on_check: Callable[[Check], None] | None = None) -> Admission:
    """Run every admission check on a model, on the CPU.

    Args:
        spec: the specification as registered.
        cache: the folder of verified weights; missing ones are fetched into it.
        on_check: called after each check.

    Raises:
        AdmissionRefused: the first failed check, by its own code, with all checks so far.
    """
    checks = _Checks(on_check)
    with checks.check("weights") as finding:
        weights = cached_weights(spec.source, cache)
        tensors = read(weights)
        finding.detail = f"SHA-256 {weights.stem}, {len(tensors)} tensors, read without running code"
    with checks.check("preprocessing") as finding:
        spec = resolve(spec, weights.stem)
        finding.detail = soundness.describe_preprocessing(spec)
    with checks.check("architecture") as finding:
        skeleton(spec)
        finding.detail = f"{spec.architecture} is known and builds"
    with checks.check("tensors") as finding:
        module = build_with(spec, tensors)
        finding.detail = "every tensor has its name and shape"
    with checks.check("finite_weights") as finding:
        finding.detail = soundness.check_finite_weights(module)

    network = load_network(spec, weights)
    batch_BCHW = known_photos.batch(network.preprocess)
    with checks.check("forward") as finding:
        finding.detail = soundness.check_forward(network, module, batch_BCHW)
    with checks.check("deterministic") as finding:
        finding.detail = soundness.check_deterministic(network, batch_BCHW[:2])
    with checks.check("batch_invariant") as finding:
        finding.detail = soundness.check_batch_invariant(network, batch_BCHW)
    with checks.check("known_photos") as finding:
        finding.detail = known_photos.check_classes(network, spec.known_photos)
        if spec.head is None:
            finding.detail = "no head that could name a photo"
        elif not spec.known_photos:
            finding.warn("the specification names no photo with its class")
    with checks.check("known_similarity") as finding:
        if spec.known_similarity is None:
            finding.warn("the specification states no feature similarities")
        else:
            finding.detail = known_photos.check_similarity(network, spec.known_similarity)
    with checks.check("license") as finding:
        finding.detail = soundness.check_license(spec)
        if spec.homepage is None and not isinstance(spec.source, PackageSource):
            finding.warn(f"{spec.license}, but no homepage says where that is stated")
    return Admission(spec=spec, weights=weights, checks=checks.done, facts=_facts(network, weights))


def _facts(network: Network, weights: Path) -> dict[str, Any]:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(known_photos.batch(network.preprocess)[:1])
    return {
        "feature_dim": network.feature_dim,
        "num_classes": network.num_classes,
        "parameters": network.num_parameters,
        "weights_sha256": weights.stem,
        "weights_bytes": weights.stat().st_size,
        "gflops": round(counter.get_total_flops() / 1e9, 3),
    }
