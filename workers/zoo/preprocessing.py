"""From a canonical RGB image to a network's input, exactly as the network's authors did it.

    B images of a batch, H x W pixels, C = 3 channels

Geometry works on 8-bit pixels, image by image, on the CPU; arithmetic works on whole batches, on the network's device.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from app.domain.model_spec import Preprocessing

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Preprocessor(nn.Module):
    """The steps of one ``Preprocessing``; agrees with torchvision's, timm's and transformers' own to 1e-6."""

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(self, steps: Preprocessing) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("mean_C11", torch.tensor(steps.mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std_C11", torch.tensor(steps.std).reshape(3, 1, 1), persistent=False)

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the resized and cropped 8-bit pixels (H, W, 3), channels still in RGB order.

        Pillow resizes with antialiasing and lets other threads run meanwhile.

        Raises:
            ValueError: where the image is not RGB.
        """
        if image.mode != "RGB":
            raise ValueError(f"expected an RGB image, got mode {image.mode}")
        height, width = self.steps.crop
        resample = RESAMPLING[self.steps.interpolation]
        if self.steps.resize is None:
            return np.asarray(image.resize((width, height), resample))
        scaled = image.resize(_scaled(image.size, self.steps.resize), resample)
        rounded = math.floor if self.steps.crop_corner == "floored" else round
        left, top = rounded((scaled.width - width) / 2), rounded((scaled.height - height) / 2)
        return np.asarray(scaled.crop((left, top, left + width, top + height)))

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """Turn 8-bit RGB pixels into the network's input (B, 3, H, W), float32, in channels-last memory."""
        if self.steps.channels == "BGR":
            pixels_BHWC = pixels_BHWC.flip(-1)
        batch_BCHW = pixels_BHWC.permute(0, 3, 1, 2).to(torch.float32)
        return batch_BCHW.div_(self.steps.divide_by).sub_(self.mean_C11).div_(self.std_C11)


def _scaled(size: tuple[int, int], shorter: int | tuple[int, int]) -> tuple[int, int]:
    """Return width and height with the shorter side at ``shorter``, the longer rounded down as torchvision does."""
    if isinstance(shorter, tuple):
        return shorter[1], shorter[0]
    width, height = size
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter
