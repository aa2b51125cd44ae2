"""Whether a tensor's first axis counts the images, each as one block of the same length.

The shape does not tell: tokens may come first, and windows of an image may lie between those of another. So two images
are passed in either order. Where each has a block of its own, the blocks change places, and nothing else happens.

    B images, L numbers of a block
"""

import torch
from torch import Tensor

_SAME = 1e-2
"""Fingerprints of different blocks are normally distributed with unit variance, and so differ by about 1."""


class Fingerprints:
    """One number for each image's block of each tensor: its length along a random direction, over its own norm."""

    def __init__(self, directions: dict[int, Tensor]) -> None:
        """Start a pass over a batch.

        Args:
            directions: by their length, filled in; those of another pass are the same.
        """
        self.names: list[str] = []
        self._found: list[Tensor] = []
        self._directions = directions

    def add(self, name: str, tensor: Tensor, images: int) -> None:
        """Take the fingerprints of a tensor whose first axis is divisible by the number of images."""
        blocks_BL = tensor.detach().reshape(images, -1).float()
        length = blocks_BL.shape[1]
        if length not in self._directions:
            generator = torch.Generator().manual_seed(length)
            self._directions[length] = torch.randn(length, generator=generator).to(blocks_BL)
        direction_L = self._directions[length]
        tiny = torch.finfo(torch.float32).tiny
        self.names.append(name)
        self._found.append(blocks_BL @ direction_L / blocks_BL.norm(dim=1).clamp_min(tiny))

    def moved(self, swapped: "Fingerprints") -> str | None:
        """Return the name of the first tensor that does not swap its blocks with the images, or None.

        Args:
            swapped: of the same images in the opposite order.
        """
        for number, name in enumerate(self.names):
            if number >= len(swapped.names) or swapped.names[number] != name:
                return name
            if (self._found[number] - swapped._found[number].flip(0)).abs().max() > _SAME:
                return name
        return None
