"""What batch normalisation remembers of training: the mean and variance of each channel.

C channels
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class BatchStatistics:
    """One layer's."""

    name: str
    layer: nn.Module
    mean_C: Tensor
    variance_C: Tensor

    @property
    def is_untouched(self) -> bool:
        """Whether they are those that every layer begins with."""
        zeros, ones = torch.zeros_like(self.mean_C), torch.ones_like(self.variance_C)
        return torch.equal(self.mean_C, zeros) and torch.equal(self.variance_C, ones)

    @property
    def epsilon(self) -> float:
        """What the layer adds to a variance."""
        return float(getattr(self.layer, "eps", 1e-5))


def batch_statistics(module: nn.Module) -> list[BatchStatistics]:
    """Return those of every layer that has them, frozen or not, in the order of the module."""
    found = []
    for name, layer in module.named_modules():
        mean_C, variance_C = getattr(layer, "running_mean", None), getattr(layer, "running_var", None)
        if isinstance(mean_C, Tensor) and isinstance(variance_C, Tensor):
            found.append(BatchStatistics(name, layer, mean_C, variance_C))
    return found
