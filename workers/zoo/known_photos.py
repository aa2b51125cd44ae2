"""Photos whose answer is known: what shows that weights, architecture and preprocessing belong together.

B photos, C = 3 channels, H x W pixels, D features, P pairs of photos
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from app.domain.errors import ModelRejected
from app.domain.model_spec import KnownPhoto, KnownSimilarity
from app.manifest import PHOTOS
from workers.zoo.network import Network
from workers.zoo.preprocessing import Preprocessor


def names() -> list[str]:
    """Return the file names of all bundled photos, sorted."""
    return sorted(path.name for path in PHOTOS.glob("*.jpg"))


def load(photo: str) -> Image.Image:
    """Return a bundled photo as an RGB image.

    Raises:
        ModelRejected: ``unknown_photo``.
    """
    path: Path = PHOTOS / photo
    if photo not in names():
        raise ModelRejected(
            "unknown_photo",
            f"there is no bundled photo {photo}",
            param="known_photos",
            hint="Use one of " + ", ".join(names()),
        )
    with Image.open(path) as image:
        return image.convert("RGB")


def batch(preprocess: Preprocessor, photos: Sequence[str] | None = None) -> Tensor:
    """Return bundled photos (all of them by default) as a network's input (B, C, H, W)."""
    pixels_BHWC = np.stack([preprocess.pixels(load(photo)) for photo in photos or names()])
    batch_BCHW: Tensor = preprocess(torch.from_numpy(pixels_BHWC).to(preprocess.mean_C11.device))
    return batch_BCHW


def check_classes(network: Network, known: Sequence[KnownPhoto]) -> str:
    """Let the network name the photos; return what it said.

    Raises:
        ModelRejected: ``known_photo_mismatch``, ``unknown_photo``.
    """
    said = []
    for one in known:
        with torch.inference_mode():
            logits_BZ = network(batch(network.preprocess, [one.photo]))[1]
        if logits_BZ is None:
            raise _mismatch("known_photo_mismatch", f"{one.photo} has a class, but the network has no head")
        probability, best = torch.softmax(logits_BZ[0], 0).max(0)
        said.append(f"{one.photo}: class {int(best)} at {float(probability):.2f}")
        if int(best) not in one.classes:
            raise _mismatch("known_photo_mismatch", f"{said[-1]}, which is none of {list(one.classes)}")
    return "; ".join(said)


def centred_cosines(features_BD: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the cosine (P,) of every pair of rows after centring, the upper triangle row by row."""
    centred_BD = np.asarray(features_BD, np.float64) - features_BD.mean(axis=0, dtype=np.float64)
    unit_BD = centred_BD / np.maximum(np.linalg.norm(centred_BD, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    similarities_P: NDArray[np.float64] = (unit_BD @ unit_BD.T)[np.triu_indices(len(unit_BD), 1)]
    return similarities_P


def check_similarity(network: Network, known: KnownSimilarity) -> str:
    """Compare the feature similarities of photos with those stated; return the largest difference.

    Raises:
        ModelRejected: ``known_similarity_mismatch``, ``unknown_photo``.
    """
    with torch.inference_mode():
        features_BD = network(batch(network.preprocess, known.photos))[0]
    found_P = centred_cosines(features_BD.cpu().numpy())
    difference = float(np.abs(found_P - np.array(known.similarities)).max())
    if difference > known.tolerance:
        raise _mismatch(
            "known_similarity_mismatch",
            f"feature similarities are {found_P.round(3).tolist()}, stated {list(known.similarities)}: "
            f"off by {difference:.3f}, tolerance {known.tolerance}",
        )
    return f"{len(found_P)} feature similarities within {difference:.4f}"


def _mismatch(code: str, message: str) -> ModelRejected:
    return ModelRejected(
        code, message, param="preprocessing", hint="Check mean, std, channel order, input size and state_format."
    )
