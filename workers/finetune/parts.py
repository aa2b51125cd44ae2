"""Batches in parts that fit into memory."""

from collections.abc import Callable
from typing import TypeVar

import torch

from app.domain.errors import EvaluationFailed
from workers.extract.memory import is_out_of_memory

Found = TypeVar("Found")


def in_fitting_parts(
    compute: Callable[[int], Found], part: int, batch_size: int, device: torch.device
) -> tuple[Found, int]:
    """Compute with parts of ``part`` images, and with half of it again and again while memory runs out.

    Args:
        compute: is given the size of the parts and starts over on every call.
        part: images that go through at a time.
        batch_size: images of the batch, which may be fewer.
        device: where the network computes.

    Returns:
        What ``compute`` returned, and the size that fitted.

    Raises:
        EvaluationFailed: ``out_of_memory`` where even one image does not fit.
    """
    while True:
        try:
            return compute(part), part
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if part == 1:
                raise EvaluationFailed(
                    "out_of_memory",
                    f"training on one image does not fit into memory ({device})",
                    hint="Use a worker with more memory, or a smaller model.",
                ) from error
        # Only here, out of the except block, is the traceback gone that kept the failed pass's tensors alive.
        part = max(1, min(part, batch_size) // 2)
        if device.type == "cuda":
            torch.cuda.empty_cache()
