"""Loss and accuracy of a network on a set of images.

E images, B images of a batch, C classes
"""

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.domain.finetuning import Loss
from app.domain.interruption import Interrupted
from workers.finetune.parts import in_fitting_parts
from workers.finetune.pixels import PixelStore
from workers.finetune.tuned_network import TunedNetwork, summed_loss

BATCH = 32


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Mean loss, and which answers are right (E)."""

    loss: float
    correct_E: NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return float(self.correct_E.mean())

    @property
    def finite(self) -> bool:
        """Whether the loss is a number."""
        return math.isfinite(self.loss)


def evaluate(
    network: TunedNetwork,
    store: PixelStore,
    images_E: NDArray[np.intp],
    labels_N: NDArray[np.int64],
    loss: Loss,
    *,
    batch_size: int = BATCH,
    should_stop: Callable[[], bool] | None = None,
) -> Evaluation:
    """Answer for images with the statistics of the pretraining or of the training (eval mode), without changing them.

    Args:
        network: what is asked; left in eval mode.
        store: the pixels of N images.
        images_E: ascending image numbers of the store, at least one.
        labels_N: the class of each image of the store.
        loss: which loss.
        batch_size: images a pass, of which fewer go through at a time where memory is too small.
        should_stop: asked between batches.

    Raises:
        Interrupted: ``should_stop`` said so.
        EvaluationFailed: ``out_of_memory`` where even one image does not fit.
    """
    network.eval()
    batches = [images_E[start : start + batch_size] for start in range(0, len(images_E), batch_size)]
    total, part = 0.0, batch_size
    correct = []
    with torch.inference_mode(), closing(store.batches(batches)) as pixels:
        for images_B, pixels_BHWC in zip(batches, pixels, strict=True):
            if should_stop is not None and should_stop():
                raise Interrupted("Stopped while evaluating.")
            labels_B = torch.from_numpy(labels_N[images_B]).to(network.device)
            logits_BC, part = in_fitting_parts(
                partial(_logits, network, pixels_BHWC), part, len(labels_B), network.device
            )
            total += float(summed_loss(logits_BC, labels_B, loss))
            correct.append((logits_BC.argmax(dim=1) == labels_B).cpu().numpy())
    return Evaluation(total / len(images_E), np.concatenate(correct))


def _logits(network: TunedNetwork, pixels_BHWC: Tensor, part: int) -> Tensor:
    starts = range(0, len(pixels_BHWC), part)
    return torch.cat([network(pixels_BHWC[start : start + part]).float() for start in starts])
