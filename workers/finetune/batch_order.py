"""Which images each step of a training sees: a function of the seed and the epoch alone.

N training images, B images of a batch
"""

import numpy as np
import torch
from numpy.typing import NDArray

from app.domain.finetuning import Recipe

_EPOCHS = 2**31


def epoch_batches(recipe: Recipe, images: int, epoch: int) -> list[NDArray[np.intp]]:
    """Return the batches of an epoch: places in the list of training images, ascending within a batch.

    The order within a batch means nothing to its gradient, and ascending rows are read fastest. The same seed and epoch
    give the same batches on every machine, so training can go on in the middle of an epoch.
    """
    order_N = torch.randperm(images, generator=_generator(recipe, epoch)).numpy()
    steps = recipe.steps_per_epoch(images)
    size = recipe.batch_size
    return [np.sort(order_N[step * size : (step + 1) * size]) for step in range(steps)]


def flipped_images(recipe: Recipe, images: int, epoch: int) -> NDArray[np.bool_]:
    """Return which of the training images (N) are mirrored in an epoch."""
    if recipe.augmentation == "none":
        return np.zeros(images, dtype=np.bool_)
    generator = _generator(recipe, epoch)
    torch.randperm(images, generator=generator)
    return torch.randint(2, (images,), generator=generator).numpy().astype(np.bool_)


def _generator(recipe: Recipe, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(recipe.seed * _EPOCHS + epoch)
