"""Admission of a model to the zoo: named checks, in order, each with its outcome, its finding and its time.

B photos, D features, Z source classes
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from app.domain.errors import ModelRejected
from app.domain.model_sources import PackageSource
from app.domain.model_spec import ModelSpec
from app.storage.objects import Objects
from workers.zoo import device_cost, initialisation, known_photos, model_facts, soundness
from workers.zoo.architectures import build_with, left_out_prefix, skeleton, split
from workers.zoo.check_log import AdmissionRefused, Check, CheckLog
from workers.zoo.containers import Tensors, read
from workers.zoo.differentiability import check_gradients
from workers.zoo.layouts import low_precision
from workers.zoo.network import Network, load_network
from workers.zoo.preprocessing_fit import check_preprocessing_fit
from workers.zoo.resolution import pin, resolve
from workers.zoo.sources import held_weights
from workers.zoo.transfer import NEVER_STOPPED, Supervision
from workers.zoo.weights_cache import WeightsCache

__all__ = ["CHECKS", "Admission", "AdmissionRefused", "Check", "Twins", "admit"]

CHECKS = (
    "weights",
    "safe_container",
    "preprocessing",
    "license",
    "architecture",
    "tensors",
    "finite_weights",
    "trained_weights",
    "duplicate_weights",
    "forward",
    "deterministic",
    "batch_invariant",
    "preprocessing_fit",
    "known_photos",
    "known_similarity",
    "gradients",
    "flops",
    "memory_and_throughput",
)
"""Every check, in order. The first that fails is the last that runs."""

Twins = Callable[[str, str], str | None]
"""From the SHA-256 of a weights file and of its tensors to the name of another model that has either, if one has."""


@dataclass(frozen=True)
class Admission:
    """A model that passed.

    Attributes:
        spec: the specification with everything filled in that the source states.
        weights: its safetensors file.
        checks: all of them.
        facts: feature_dim; num_classes, None without a head; parameters; depth, the number of layers with weights;
            family; gflops, 10^9 floating-point operations an image, a multiply-add being two; weights_sha256, of the
            original file; weights_bytes, of the safetensors file; tensors_sha256 (``model_facts.tensors_sha256``);
            capabilities: features, logits, gradients; and of the device ``measured_on``: load_seconds, peak_bytes and
            images_per_second by batch size (``device_cost.DeviceCost``).
    """

    spec: ModelSpec
    weights: Path
    checks: list[Check]
    facts: dict[str, Any]


def admit(
    spec: ModelSpec,
    cache: Path | WeightsCache,
    *,
    objects: Objects | None = None,
    device: torch.device | str = "cpu",
    twins: Twins | None = None,
    on_start: Callable[[str], None] | None = None,
    on_check: Callable[[Check], None] | None = None,
    supervision: Supervision = NEVER_STOPPED,
) -> Admission:
    """Run every admission check on a model.

    What a network computes is checked on the CPU, where it does not depend on the device; what it costs, on ``device``.

    Args:
        spec: the specification as registered.
        cache: the folder of verified weights; missing ones are fetched into it.
        objects: the store that has uploaded weights.
        device: where the model will be used.
        twins: tells other models with the same weights; without it, none are known.
        on_start: called with the name of each check that begins.
        on_check: called after each check.
        supervision: limits the time that the source is waited for, and ends it when the work is to stop.

    Raises:
        AdmissionRefused: the first failed check, by its own code, with all checks so far.
        Interrupted: the work is to stop, as the supervision was told while it waited for the source.
    """
    log = CheckLog(on_start, on_check)
    with ExitStack() as files:
        spec, weights = _fetch(log, spec, cache, objects, supervision, files)
        return _admit(log, spec, weights, torch.device(device), twins, supervision)


def _admit(
    log: CheckLog, spec: ModelSpec, weights: Path, device: torch.device, twins: Twins | None, supervision: Supervision
) -> Admission:
    """Run the checks of weights that are there."""
    with log.check("safe_container") as finding:
        tensors = read(weights)
        finding.detail = f"{len(tensors)} tensors, read without running code"
        finding.figures = {"tensors": len(tensors)}
    with log.check("preprocessing") as finding:
        spec = resolve(spec, weights.stem, supervision)
        finding.detail = soundness.describe_preprocessing(spec)
    with log.check("license") as finding:
        finding.detail = soundness.check_license(spec)
        if spec.homepage is None and not isinstance(spec.source, PackageSource):
            hint = "Give homepage, the page on which the licence stands."
            finding.warn("license_unproven", f"{spec.license}, but no homepage says where that is stated", hint)
    module, is_trained = _build(log, spec, tensors)
    del tensors
    facts = _identity(log, spec, module, weights, twins)
    network = _examine(log, spec, weights, module, is_trained=is_trained)
    facts |= {"family": model_facts.family(module, spec)}
    del module
    facts |= _measure(log, network, spec, weights, device)
    return Admission(spec=spec, weights=weights, checks=log.done, facts=facts)


def _fetch(
    log: CheckLog,
    spec: ModelSpec,
    cache: Path | WeightsCache,
    objects: Objects | None,
    supervision: Supervision,
    files: ExitStack,
) -> tuple[ModelSpec, Path]:
    """Pin the source and fetch the weights, which stay until ``files`` are closed.

    A file with the right hash may still be an unsafe one, which is the next check's finding.
    """
    unsafe: ModelRejected | None = None
    with log.check("weights") as finding:
        try:
            spec = pin(spec, supervision)
            weights = files.enter_context(held_weights(spec.source, cache, objects, supervision))
            finding.detail = f"SHA-256 {weights.stem}"
            finding.figures = {"bytes": weights.stat().st_size}
        except ModelRejected as error:
            if error.code != "unsafe_weights":
                raise
            unsafe, finding.detail = error, "the source serves the file that was meant"
    if unsafe is not None:
        with log.check("safe_container"):
            raise unsafe
    return spec, weights


def _build(log: CheckLog, spec: ModelSpec, tensors: Tensors) -> tuple[nn.Module, bool]:
    """Put the weights into their architecture, and tell whether they look trained."""
    with log.check("architecture") as finding:
        split(skeleton(spec), spec)
        finding.detail = f"{spec.architecture} is known and builds"
    with log.check("tensors") as finding:
        module = build_with(spec, tensors)
        finding.detail = "every tensor has its name and shape"
        if prefix := left_out_prefix(spec, tensors, module):
            finding.detail += f", once {prefix!r} is taken off the beginning of all names"
        if low := low_precision(tensors):
            finding.warn(
                "low_precision_weights",
                f"{finding.detail}; {len(low)} have fewer than 16 bits a number and become float32, first {low[0]}",
                "Register the weights in float16 or more: what rounding took from these, no type brings back.",
            )
    with log.check("finite_weights") as finding:
        finding.detail = soundness.check_finite_weights(module)
    with log.check("trained_weights") as finding:
        is_trained = initialisation.check_trained(module, spec, finding)
    return module, is_trained


def _identity(log: CheckLog, spec: ModelSpec, module: nn.Module, weights: Path, twins: Twins | None) -> dict[str, Any]:
    """Tell whether another model has these weights, and return what tells weights apart."""
    with log.check("duplicate_weights") as finding:
        tensors_sha256 = model_facts.tensors_sha256(module)
        twin = twins(weights.stem, tensors_sha256) if twins is not None else None
        finding.figures = {"tensors_sha256": tensors_sha256}
        if twin is not None:
            hint = "Leave one of the two out of your selections, or disable it: they cannot differ in their ranks."
            finding.warn("duplicate_weights", f"{twin} has the same weights as {spec.name}", hint)
        else:
            finding.detail = (
                "no other model has these weights" if twins is not None else "no other models are known here"
            )
    facts = {"weights_sha256": weights.stem, "weights_bytes": weights.stat().st_size}
    return facts | {"tensors_sha256": tensors_sha256}


def _examine(log: CheckLog, spec: ModelSpec, weights: Path, module: nn.Module, *, is_trained: bool) -> Network:
    """Load the network and show photos to it."""
    with log.check("forward") as finding:
        network = load_network(spec, weights)
        batch_BCHW = known_photos.batch(network.preprocess)
        finding.detail = soundness.check_forward(network, module, batch_BCHW)
    with log.check("deterministic") as finding:
        finding.detail = soundness.check_deterministic(network, batch_BCHW[:2])
    with log.check("batch_invariant") as finding:
        finding.detail = soundness.check_batch_invariant(network, batch_BCHW)
    with log.check("preprocessing_fit") as finding:
        if is_trained:
            check_preprocessing_fit(network, spec, finding)
        else:
            finding.detail = "weights that were never trained fit any"
    with log.check("known_photos") as finding:
        finding.detail = known_photos.check_classes(network, spec.known_photos)
        if network.head is None:
            finding.detail = "no head that could name a photo"
        elif not spec.known_photos:
            hint = "Give known_photos: which of the bundled photos has which of the head's classes."
            finding.warn("known_photos_missing", "the specification names no photo with its class", hint)
    with log.check("known_similarity") as finding:
        if spec.known_similarity is None:
            hint = "Give known_similarity: the cosines of the photos' features as another program computes them."
            finding.warn("known_similarity_missing", "the specification states no feature similarities", hint)
        else:
            finding.detail = known_photos.check_similarity(network, spec.known_similarity)
    return network


def _measure(log: CheckLog, network: Network, spec: ModelSpec, weights: Path, device: torch.device) -> dict[str, Any]:
    """Tell what the network is able to do and what it costs, on the device where it will be used."""
    with log.check("gradients") as finding:
        start = time.perf_counter()
        network = load_network(spec, weights, device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        load_seconds = time.perf_counter() - start
        photos_BCHW = known_photos.batch(network.preprocess)
        sizes = model_facts.sizes(network)
        has_gradients = check_gradients(network, finding)
    with log.check("flops") as finding:
        gflops = model_facts.gigaflops(network, photos_BCHW[:1])
        finding.detail = f"{gflops:.2f} x 10^9 floating-point operations an image"
        finding.figures = {"gflops": gflops}
    with log.check("memory_and_throughput") as finding:
        cost = device_cost.measure(network, photos_BCHW)
        device_cost.describe(cost, finding)
    return sizes | {
        "gflops": round(gflops, 3),
        "capabilities": {"features": True, "logits": network.head is not None, "gradients": has_gradients},
        "measured_on": cost.measured_on,
        "load_seconds": round(load_seconds, 3),
        "peak_bytes": {str(size): peak for size, peak in cost.peak_bytes.items()},
        "images_per_second": {str(size): round(rate, 2) for size, rate in cost.images_per_second.items()},
    }
