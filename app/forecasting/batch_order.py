"""Which images each step sees, for several seeds at once.

Legend: S seeds, B images of a batch, N images.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Batch = NDArray[np.intp]
"""The places of a step's images, one row a seed (S, B)."""


def batches_SB(num_images: int, batch_size: int, steps: int, seeds: Sequence[int]) -> Iterator[Batch]:
    """Yield the batch of every step: without replacement, every epoch in a new order, its last batch may be smaller.

    With fewer images than a batch holds every batch has them all, as a data loader would give them.
    """
    generators = [np.random.default_rng((seed, num_images)) for seed in seeds]
    done = 0
    while done < steps:
        order_SN = np.stack([generator.permutation(num_images) for generator in generators])
        for start in range(0, num_images, batch_size):
            if done == steps:
                return
            yield order_SN[:, start : start + batch_size]
            done += 1


def weights_SN(batch_SB: Batch, num_images: int) -> NDArray[np.float64]:
    """Return each image's share in the mean over its seed's batch: 1 / B or 0."""
    share_SN = np.zeros((len(batch_SB), num_images))
    np.put_along_axis(share_SN, batch_SB, 1 / batch_SB.shape[1], axis=1)
    return share_SN
