"""Where a network's features end: what its classifier reads, and the classifier as a function of that.

The features are the vector that the last layer multiplies by its weights. Most networks have one dense layer there. A
1 x 1 convolution on pooled features is the same; so is the mean of several classifiers, each with its own vector or
all with one. A network that does anything else after its last pooling has no features in this sense and is refused.

B images, D features, Z source classes
"""

from collections.abc import Sequence

import torch
from timm.layers.classifier import ClassifierHead
from timm.models.crossvit import CrossVit
from timm.models.deit import VisionTransformerDistilled
from timm.models.pit import PoolingVisionTransformer
from timm.models.volo import VOLO
from torch import Tensor, nn


class TimmTrunk(nn.Module):
    """A timm network up to its pooled features, the input of its classifier."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch_BCHW: Tensor) -> Tensor:
        """Return the features (B, D)."""
        features_BD: Tensor = self.module.forward_head(self.module.forward_features(batch_BCHW), pre_logits=True)  # type: ignore[operator]
        return features_BD


class DistilledTrunk(TimmTrunk):
    """A transformer with a class and a distillation token, each of which has its own classifier: both side by side."""

    def forward(self, batch_BCHW: Tensor) -> Tensor:
        """Return the features (B, D), D twice the width of a token."""
        tokens_BTE: Tensor = self.module.forward_features(batch_BCHW)  # type: ignore[operator]
        return tokens_BTE[:, :2].flatten(1)


class PointClassifier(nn.Module):
    """A 1 x 1 convolution in a dense layer's place."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, features_BD: Tensor) -> Tensor:
        """Return the logits (B, Z)."""
        logits_BZ: Tensor = self.convolution(features_BD[:, :, None, None]).flatten(1)
        return logits_BZ


class MeanClassifier(nn.Module):
    """Several classifiers whose logits are averaged, as networks have them that learned from a teacher too."""

    def __init__(self, classifiers: Sequence[nn.Module], *, apart: bool) -> None:
        """Hold the classifiers.

        Args:
            classifiers: each gives as many logits.
            apart: each reads its own part of the features, in their order; otherwise each reads all of them.
        """
        super().__init__()
        self.classifiers = nn.ModuleList(classifiers)
        self.widths = [int(part.in_features) for part in classifiers] if apart else None  # type: ignore[arg-type]

    def forward(self, features_BD: Tensor) -> Tensor:
        """Return the logits (B, Z)."""
        count = len(self.classifiers)
        parts = [features_BD] * count if self.widths is None else torch.split(features_BD, self.widths, dim=1)
        logits = [classifier(part) for classifier, part in zip(self.classifiers, parts, strict=True)]
        return torch.stack(logits).mean(dim=0)


def timm_trunk(module: nn.Module) -> TimmTrunk:
    """Return a timm network up to what its classifiers read."""
    return DistilledTrunk(module) if _reads_two_tokens(module) else TimmTrunk(module)


def timm_classifiers(module: nn.Module) -> dict[str, nn.Module]:
    """Return the classifiers of a timm network under their names in it: one, or several whose mean is its output.

    Raises:
        ValueError: the output is not made of the classifiers alone; the message says why, as a part of a sentence.
    """
    if isinstance(module, VOLO) and module.aux_head is not None:
        raise ValueError("its output adds a second classifier's largest answer among all places of the image")
    found = module.get_classifier()  # type: ignore[operator]
    parts = [found] if isinstance(found, nn.Module) and not isinstance(found, nn.ModuleList) else list(found)
    parts = [part.fc if isinstance(part, ClassifierHead) else part for part in parts]
    names = {id(part): name for name, part in module.named_modules()}
    return {names[id(part)]: part for part in parts}


def timm_head(module: nn.Module) -> nn.Module:
    """Return the classifier of a timm network as a function of the features that ``timm_trunk`` gives.

    Raises:
        ValueError: as ``timm_classifiers``.
    """
    parts = list(timm_classifiers(module).values())
    if len(parts) > 1:
        return MeanClassifier(parts, apart=isinstance(module, CrossVit) or _reads_two_tokens(module))
    return PointClassifier(parts[0]) if isinstance(parts[0], nn.Conv2d) else parts[0]


def _reads_two_tokens(module: nn.Module) -> bool:
    pooling = isinstance(module, PoolingVisionTransformer) and module.head_dist is not None
    return pooling or isinstance(module, VisionTransformerDistilled)
