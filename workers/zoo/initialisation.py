"""Whether weights were ever trained.

Training moves what initialisation sets to constants: the statistics of batch normalisation away from 0 and 1, and the
scales of every normalisation away from each other. Where neither says anything, the spread of each layer's weights is
compared with that of a network that its library has just initialised.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.domain.errors import ModelRejected
from app.domain.model_spec import ModelSpec
from workers.zoo.architectures import build
from workers.zoo.batch_statistics import batch_statistics
from workers.zoo.check_log import Finding

SPREAD = 0.05
"""Largest relative difference of a layer's standard deviation from a fresh one's, beside that of chance."""

SHARE = 0.9
"""A network with this share of its layers at the spread of a fresh one is near its initialisation."""

_LEAST_WEIGHTS = 128
_CHANCE = 3.0  # standard errors of a standard deviation, 1/sqrt(2 n) each


@dataclass(frozen=True)
class Initialisation:
    """How far weights are from a fresh network's.

    Attributes:
        normalisations: number of layers that scale what they normalise.
        constant_scales: of these, those whose scales are all the same.
        untouched_statistics: layers of batch normalisation whose mean is 0 and variance 1 throughout.
        layers: number of weights that were compared with a fresh network's; 0 where that was not needed.
        fresh_layers: of these, those with the same spread.
    """

    normalisations: int
    constant_scales: int
    untouched_statistics: int
    layers: int = 0
    fresh_layers: int = 0

    @property
    def is_fresh(self) -> bool:
        """Whether the network looks as if it was never trained."""
        return self.layers > 0 and self.fresh_layers >= SHARE * self.layers

    @property
    def description(self) -> str:
        """What was found, in words."""
        if self.layers:
            return f"{self.fresh_layers} of {self.layers} weights are spread as in a network that was never trained"
        return f"training has moved the scales of {self.normalisations - self.constant_scales} normalisations"


def check_trained(module: nn.Module, spec: ModelSpec, finding: Finding) -> bool:
    """Tell whether a network looks trained; warn where it does not.

    Raises:
        ModelRejected: ``invalid_batch_norm`` for a variance below zero.
    """
    found = inspect(module, spec)
    finding.figures = dataclasses.asdict(found)
    if found.is_fresh:
        hint = "If they should be pretrained, check that the file was saved after training and is the right one."
        finding.warn("near_initialisation", found.description, hint)
    else:
        finding.detail = found.description
    return not found.is_fresh


def inspect(module: nn.Module, spec: ModelSpec) -> Initialisation:
    """Compare a network with its initialisation.

    Raises:
        ModelRejected: ``invalid_batch_norm`` for a variance below zero.
    """
    _refuse_negative_variances(module)
    untouched = [one for one in batch_statistics(module) if one.is_untouched]
    scales = _scales(module)
    constant = [scale_C for scale_C in scales if torch.equal(scale_C, scale_C[:1].expand_as(scale_C))]
    found = Initialisation(len(scales), len(constant), len(untouched))
    if len(constant) < len(scales) / 2:
        return found
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = dict(build(spec).named_parameters())
    pairs = [(weight, fresh[name]) for name, weight in module.named_parameters() if _is_compared(weight)]
    alike = sum(_has_same_spread(weight, other) for weight, other in pairs)
    return Initialisation(len(scales), len(constant), len(untouched), len(pairs), alike)


def _refuse_negative_variances(module: nn.Module) -> None:
    for one in batch_statistics(module):
        below_zero = int((one.variance_C < 0).sum())
        if below_zero:
            raise ModelRejected(
                "invalid_batch_norm",
                f"{below_zero} variances of {one.name} are below zero",
                param="source",
                hint="No training leaves such statistics: the file is damaged, or its tensors are in another order.",
            )


def _scales(module: nn.Module) -> list[Tensor]:
    weights = [getattr(part, "weight", None) for part in module.modules() if "norm" in type(part).__name__.lower()]
    return [weight for weight in weights if isinstance(weight, nn.Parameter) and weight.ndim == 1]


def _is_compared(weight: Tensor) -> bool:
    return weight.ndim > 1 and weight.numel() >= _LEAST_WEIGHTS


def _has_same_spread(weight: Tensor, fresh: Tensor) -> bool:
    first, second = float(weight.detach().float().std()), float(fresh.detach().float().std())
    allowed = SPREAD + _CHANCE * (1 / (2 * weight.numel())) ** 0.5
    return bool(abs(first - second) <= allowed * max(first, second))
