"""Whether a network says the same of a few images in a reduced precision as in float32.

N images of a check, D features
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import EvaluationFailed
from workers.extract.features import extract
from workers.extract.memory import is_out_of_memory
from workers.extract.part_size import PartSize
from workers.extract.pixel_batches import ImageSource
from workers.extract.precision import Precision, PrecisionCheck
from workers.zoo.network import Network

CHECKED_IMAGES = 16
LARGEST_ERROR = 0.05
"""Of how much the images differ; see docs/performance.md for what networks err by."""
FEWEST_SAME_NEIGHBOURS = 0.9
_AS_NEAR = 1.02  # a neighbour that is farther than the nearest one by no more than this is as good as it


def check_precision(
    network: Network,
    images: Sequence[ImageSource],
    wanted: Precision,
    *,
    part_sizes: Callable[[Precision], PartSize] = lambda _: PartSize(CHECKED_IMAGES),
    should_stop: Callable[[], bool] | None = None,
) -> PrecisionCheck:
    """Compare features in a reduced precision with float32, on this network, on its device, and these images.

    Args:
        network: on its device.
        images: some that differ, about ``CHECKED_IMAGES`` of them.
        wanted: the reduced precision.
        part_sizes: what is known of the parts that the network takes in each precision.
        should_stop: asked between parts.

    Raises:
        Interrupted: ``should_stop`` said so.
        EvaluationFailed: as ``extract`` says of float32.
    """

    def features(precision: Precision) -> NDArray[np.float32]:
        return extract(
            network,
            images,
            batch_size=CHECKED_IMAGES,
            precision=precision,
            part_size=part_sizes(precision),
            should_stop=should_stop,
        ).features_ND

    full_ND = features("float32")
    try:
        reduced_ND = features(wanted)
    except EvaluationFailed as error:
        if error.code != "non_finite_features":
            raise
        return PrecisionCheck(wanted, "float32", len(images), reason=f"in {wanted}, {error.message}")
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        why = f"the network does not compute in {wanted}: {str(error).partition(chr(10))[0]}"
        return PrecisionCheck(wanted, "float32", len(images), reason=why)
    off, same = relative_error(full_ND, reduced_ND), same_neighbours(full_ND, reduced_ND)
    reason = None
    if off > LARGEST_ERROR:
        reason = f"features err by {off:.1%} of how much the images differ"
    elif same < FEWEST_SAME_NEIGHBOURS:
        reason = f"only {same:.0%} of the images keep their nearest neighbour"
    return PrecisionCheck(wanted, "float32" if reason else wanted, len(images), round(off, 6), round(same, 4), reason)


def relative_error(full_ND: NDArray[np.float32], reduced_ND: NDArray[np.float32]) -> float:
    """Return the root mean square error over that of the centred features: what all images share tells nothing."""
    full, reduced = full_ND.astype(np.float64), reduced_ND.astype(np.float64)
    spread = float(np.linalg.norm(full - full.mean(axis=0)))
    error = float(np.linalg.norm(reduced - full))
    return error / spread if spread > 0 else float(error > 0)


def same_neighbours(full_ND: NDArray[np.float32], reduced_ND: NDArray[np.float32]) -> float:
    """Return the share of images whose nearest neighbour is, by float32 too, the nearest or as near as it."""
    if len(full_ND) < 2:
        return 1.0
    full_NN, reduced_NN = _distances(full_ND), _distances(reduced_ND)
    found_N = full_NN[np.arange(len(full_NN)), reduced_NN.argmin(axis=1)]
    return float((found_N <= _AS_NEAR * full_NN.min(axis=1)).mean())


def _distances(features_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    rows_ND = features_ND.astype(np.float64)
    distances_NN = np.linalg.norm(rows_ND[:, None] - rows_ND[None], axis=2)
    np.fill_diagonal(distances_NN, np.inf)
    return np.asarray(distances_NN)
