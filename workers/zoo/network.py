"""A pretrained network as the rest of the product sees it: pixels in, features and source logits out.

B images of a batch, H x W pixels, C = 3 channels, D features, Z source classes
"""

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from app.domain.errors import ModelRejected
from app.domain.model_spec import ModelSpec
from workers.zoo.architectures import build_with, split
from workers.zoo.containers import read
from workers.zoo.labels import names_classes
from workers.zoo.preprocessing import Preprocessor


class Network(nn.Module):
    """A trunk, its classifier where it has one, and the preprocessing both expect; always in eval mode.

    ``projection`` stands in a classifier's place where the outputs are no classes: nothing but admission looks at it.
    """

    def __init__(
        self, trunk: nn.Module, head: nn.Module | None, preprocess: Preprocessor, projection: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.projection = projection
        self.preprocess = preprocess
        self.eval()

    def forward(self, batch_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the pooled features (B, D) and, in the same pass, the source logits (B, Z) or None."""
        features_BD: Tensor = self.trunk(batch_BCHW)
        return features_BD, None if self.head is None else self.head(features_BD)

    @property
    def device(self) -> torch.device:
        """The device that holds the parameters."""
        return self.preprocess.mean_C11.device

    @property
    def feature_dim(self) -> int:
        """D."""
        return self._widths[0]

    @property
    def num_classes(self) -> int | None:
        """Z, or None without a classifier."""
        return self._widths[1]

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases, the classifier's included."""
        return sum(parameter.numel() for parameter in self.parameters())

    @cached_property
    def _widths(self) -> tuple[int, int | None]:
        """D and Z, found by passing one black image through the network."""
        height, width = self.preprocess.steps.crop
        black_BHWC = torch.zeros(1, height, width, 3, dtype=torch.uint8, device=self.device)
        with torch.inference_mode():
            features_BD, logits_BZ = self(self.preprocess(black_BHWC))
        return features_BD.shape[-1], None if logits_BZ is None else logits_BZ.shape[-1]


def load_network(spec: ModelSpec, weights: Path, device: torch.device | str = "cpu") -> Network:
    """Return the network of a specification, in float32 and channels-last memory, on ``device``.

    Args:
        spec: a specification whose preprocessing is stated (``Admission.spec``).
        weights: the safetensors file of its source (``workers.zoo.sources.cached_weights``).
        device: where the network computes.

    Raises:
        ModelRejected: ``unknown_architecture``, ``weights_mismatch``, ``unsafe_weights``, ``incomplete_preprocessing``.
    """
    if spec.preprocessing is None:
        raise ModelRejected(
            "incomplete_preprocessing",
            f"{spec.name} does not say how images are prepared for it",
            param="preprocessing",
            hint="State resize, crop, interpolation, mean and std as in the network's training.",
        )
    module = build_with(spec, read(weights))
    trunk, last = split(module, spec)
    head, projection = (last, None) if names_classes(spec.head) else (None, last)
    network = Network(trunk, head, Preprocessor(spec.preprocessing), projection)
    network.requires_grad_(False).to(device)
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            # Channels-last convolutions measured 1.2 to 2 times faster on a CPU, and never slower. Every other tensor,
            # 1 x 1 kernels too, stays where the file is mapped into memory, which processes share.
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
        if hasattr(part, "attention_bias_cache"):
            part.attention_bias_cache = _NothingKept()  # type: ignore[assignment]
    return network


class _NothingKept(dict[str, Tensor]):
    """Stands for the cache of what timm's LeViT and its relatives compute from their parameters.

    What one pass left there would be a constant to the next: nothing would learn through it, and no gradient be found.
    """

    def __contains__(self, key: object) -> bool:
        return False

    def __getitem__(self, key: str) -> Tensor:
        return self.pop(key)
