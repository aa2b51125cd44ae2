"""A pretrained trunk with a new linear classifier, both to be trained.

B images of a batch, H x W pixels, 3 channels, D features, C classes
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from app.domain.finetuning import BatchNorm, Loss
from workers.zoo.classifiers import TimmTrunk, timm_classifiers
from workers.zoo.network import Network
from workers.zoo.preprocessing import Preprocessor


class TunedNetwork(nn.Module):
    """Pixels in, logits out.

    The classifier starts at zero, weights and biases. Then every class has the same probability whatever the trunk
    says: the first cross-entropy is log C exactly, on every data set, and does not depend on a random draw. A forecast
    of the training starts from the same place, and the first step moves the classifier along the class means.
    """

    def __init__(self, trunk: nn.Module, preprocess: Preprocessor, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.preprocess = preprocess
        self.head = nn.Linear(feature_dim, num_classes, device=preprocess.mean_C11.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.eval()

    @classmethod
    def of(cls, network: Network, num_classes: int) -> "TunedNetwork":
        """Return a network to train for ``num_classes`` classes; ``network`` itself keeps its weights."""
        trunk = copy.deepcopy(network.trunk)
        if isinstance(trunk, TimmTrunk):
            _drop_classifiers(trunk.module)
        tuned = cls(trunk, copy.deepcopy(network.preprocess), network.feature_dim, num_classes)
        return tuned.requires_grad_(True)

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """Return the logits (B, C) of 8-bit pixels."""
        logits_BC: Tensor = self.head(self.trunk(self.preprocess(pixels_BHWC.to(self.device, non_blocking=True))))
        return logits_BC

    @property
    def device(self) -> torch.device:
        """The device that holds the parameters."""
        return self.head.weight.device

    @property
    def num_classes(self) -> int:
        """C."""
        return self.head.out_features

    def set_training(self, batch_norm: BatchNorm) -> None:
        """Prepare for training steps.

        Nothing but live batch normalisation behaves differently from evaluation: dropout and stochastic depth stay
        off, so that a run is a function of its data, its recipe and its seed.
        """
        self.eval()
        if batch_norm == "live":
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.train()


def _drop_classifiers(module: nn.Module) -> None:
    """Take out the source's classifiers, which a trunk of timm holds and does not use."""
    for name in timm_classifiers(module):
        module.set_submodule(name, nn.Identity())


def summed_loss(logits_BC: Tensor, labels_B: Tensor, loss: Loss) -> Tensor:
    """Return the sum of the images' losses; ``squared`` is half the squared distance from the one-hot label."""
    if loss == "cross_entropy":
        return nn.functional.cross_entropy(logits_BC, labels_B, reduction="sum")
    one_hot_BC = nn.functional.one_hot(labels_B, logits_BC.shape[1]).to(logits_BC.dtype)
    return 0.5 * (logits_BC - one_hot_BC).square().sum()
