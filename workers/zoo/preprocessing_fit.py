"""Whether the stated preprocessing is the one the network was trained with: it is held against the usual others.

Two kinds of evidence. Known answers: photos that a network names, and similarities that its features have, only after
the right preprocessing. And batch normalisation, which remembers the mean and variance that each channel had in
training: photos prepared as in training have nearly the same, above all in the first layers.

    B photos, C channels, x any further axes, H x W pixels
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from app.domain.errors import ModelRejected
from app.domain.model_spec import ModelSpec, Preprocessing
from workers.zoo import known_photos
from workers.zoo.batch_statistics import BatchStatistics, batch_statistics
from workers.zoo.check_log import Finding
from workers.zoo.network import Network
from workers.zoo.preprocessing import Preprocessor

CLEARLY_WORSE = 1.5
"""The stated preprocessing is doubted where its divergence is this many times that of another."""

FITTING = 0.1
"""Divergence up to which a preprocessing fits at all; a network that was trained on no photos reaches it by none."""

FLAT = 0.5
"""Without batch normalisation: doubted where photos differ by less than this part of what another makes of them."""

_Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Values:
    """The arithmetic of a preprocessing, without its geometry."""

    mean: _Triple
    std: _Triple
    divide_by: float = 255.0
    channels: Literal["RGB", "BGR"] = "RGB"

    def within(self, steps: Preprocessing) -> Preprocessing:
        """Return ``steps`` with this arithmetic."""
        return dataclasses.replace(steps, **dataclasses.asdict(self))

    def __str__(self) -> str:
        return f"divide_by {self.divide_by:g}, mean {list(self.mean)}, std {list(self.std)}, channels {self.channels}"


_ONES = (1.0, 1.0, 1.0)
USUAL = {
    "ImageNet's mean and deviation": Values((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "-1 to 1": Values((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "0 to 1": Values((0.0, 0.0, 0.0), _ONES),
    "CLIP's mean and deviation": Values((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "0 to 255": Values((0.0, 0.0, 0.0), _ONES, divide_by=1.0),
    "Caffe's mean": Values((103.939, 116.779, 123.68), _ONES, divide_by=1.0, channels="BGR"),
}
"""How images are usually prepared, by what their values then are."""

_SWAPPED = "the channels the other way around"
_STATED = "stated"


def check_preprocessing_fit(network: Network, spec: ModelSpec, finding: Finding) -> None:
    """Hold the stated preprocessing against the usual others; warn where another fits clearly better.

    Raises:
        ModelRejected: ``golden_mismatch`` where photos are named wrongly, or features are not as similar as stated, and
            both would be right after another preprocessing.
    """
    stated = _values(network.preprocess.steps)
    others = alternatives(stated)
    if spec.known_similarity is not None or (spec.known_photos and spec.head is not None):
        if not _answers(network, spec):
            _refuse_if_explained(network, spec, others, finding)
            finding.detail = "the known answers differ, and no usual preprocessing explains it"
            return
        if spec.known_similarity is not None:
            finding.detail = f"the known answers come out with {stated}"
            return
    others.pop(_SWAPPED, None)  # colours whose mean is swapped too differ too little for what follows
    if _has_statistics(network):
        _judge_statistics(network, stated, others, finding)
    else:
        _judge_contrast(network, stated, others, finding)


def alternatives(stated: Values) -> dict[str, Values]:
    """Return what could have been meant instead of what is stated, by its name."""
    swapped = dataclasses.replace(
        stated,
        mean=(stated.mean[2], stated.mean[1], stated.mean[0]),
        std=(stated.std[2], stated.std[1], stated.std[0]),
        channels="RGB" if stated.channels == "BGR" else "BGR",
    )
    flipped = dataclasses.replace(stated, channels=swapped.channels)
    others = {_SWAPPED: swapped}
    if flipped != swapped:
        others["the other channel order, the same mean"] = flipped
    others |= USUAL
    return {name: values for name, values in others.items() if values != stated}


def statistics_divergence(network: Network, batch_BCHW: Tensor) -> float:
    """Return how far the photos are from what the first quarter of batch normalisations saw in training.

    Of every channel the Kullback-Leibler divergence of two normal distributions, the photos' and the remembered one;
    the mean over the channels of a layer, and the geometric mean over layers. Infinite where none of them is used.
    """
    divergences: list[float] = []
    everything = batch_statistics(network.trunk)
    early = everything[: max(1, len(everything) // 4)]

    def look(known: BatchStatistics, input_BCx: Tensor) -> None:
        axes = [axis for axis in range(input_BCx.ndim) if axis != 1]
        variance_C, mean_C = torch.var_mean(input_BCx, axes, correction=0)
        known_C = known.variance_C + known.epsilon
        ratio_C = (variance_C + known.epsilon) / known_C
        shift_C = (mean_C - known.mean_C) ** 2 / known_C
        divergences.append(float(((shift_C + ratio_C - 1 - ratio_C.log()) / 2).mean()))
        if len(divergences) == len(early):
            raise _SeenEnough

    with _watching(early, look), torch.inference_mode(), suppress(_SeenEnough):
        network.trunk(batch_BCHW)
    if not divergences:
        return float("inf")
    return float(np.exp(np.log(np.maximum(divergences, 1e-12)).mean()))


def contrast(network: Network, batch_BCHW: Tensor) -> float:
    """Return how much photos differ: the mean norm of their features less their mean, over that of the features."""
    with torch.inference_mode():
        features_BD = network.trunk(batch_BCHW).double()
    centred_BD = features_BD - features_BD.mean(0)
    size = float(features_BD.norm(dim=1).mean())
    return float(centred_BD.norm(dim=1).mean()) / size if 0 < size < float("inf") else 0.0


class _SeenEnough(Exception):
    """Ends a forward pass whose later layers nobody looks at."""


@contextmanager
def _watching(layers: list[BatchStatistics], look: Callable[[BatchStatistics, Tensor], None]) -> Iterator[None]:
    """Let ``look`` see what comes into each layer."""
    handles = [one.layer.register_forward_pre_hook(lambda _, inputs, one=one: look(one, inputs[0])) for one in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _has_statistics(network: Network) -> bool:
    return any(not one.is_untouched for one in batch_statistics(network.trunk))


def _values(steps: Preprocessing) -> Values:
    return Values(steps.mean, steps.std, steps.divide_by, steps.channels)


def _with(network: Network, values: Values) -> Network:
    preprocess = Preprocessor(values.within(network.preprocess.steps)).to(network.device)
    return Network(network.trunk, network.head, preprocess)


def _answers(network: Network, spec: ModelSpec) -> bool:
    """Tell whether all that is known of the photos comes out."""
    try:
        if spec.head is not None:
            known_photos.check_classes(network, spec.known_photos)
        if spec.known_similarity is not None:
            known_photos.check_similarity(network, spec.known_similarity)
    except ModelRejected:
        return False
    return True


def _refuse_if_explained(network: Network, spec: ModelSpec, others: dict[str, Values], finding: Finding) -> None:
    right = []
    for name, values in others.items():
        if _answers(_with(network, values), spec):
            right.append(name)
            if spec.known_similarity is not None:
                break  # no two preprocessings agree so closely
    finding.figures["right_with"] = right
    if not right:
        return
    if len(right) > 1 and _has_statistics(network):
        found = _measured(network, {name: others[name] for name in right}, statistics_divergence)
        right.sort(key=lambda name: found[name])
    raise ModelRejected(
        "golden_mismatch",
        f"the known answers do not come out as stated, but would with {right[0]}",
        param="preprocessing",
        hint=f"If the authors of the weights say so too, state preprocessing: {others[right[0]]}.",
    )


def _judge_statistics(network: Network, stated: Values, others: dict[str, Values], finding: Finding) -> None:
    found = _measured(network, {_STATED: stated, **others}, statistics_divergence)
    declared = found.pop(_STATED)
    best = min(found, key=lambda name: found[name])
    finding.figures = {"measure": "divergence from batch statistics", _STATED: declared, **found}
    if found[best] <= FITTING and declared > CLEARLY_WORSE * found[best]:
        finding.warn(
            "golden_mismatch",
            f"photos prepared as stated are {declared:.3f} from what batch normalisation saw in training, "
            f"and {found[best]:.3f} with {best}",
            f"If the authors of the weights say so too, state preprocessing: {others[best]}.",
        )
    elif min(declared, found[best]) > FITTING:
        finding.detail = f"batch normalisation saw no photos in training, however prepared (divergence {declared:.3f})"
    else:
        finding.detail = f"as in training, by batch normalisation: divergence {declared:.3f}, others {found[best]:.3f}"


def _judge_contrast(network: Network, stated: Values, others: dict[str, Values], finding: Finding) -> None:
    found = _measured(network, {_STATED: stated, **others}, contrast)
    declared = found.pop(_STATED)
    best = max(found, key=lambda name: found[name])
    finding.figures = {"measure": "contrast of features", _STATED: declared, **found}
    if declared < FLAT * found[best]:
        finding.warn(
            "golden_mismatch",
            f"photos prepared as stated differ by {declared:.2f} of their features' size, and by {found[best]:.2f} "
            f"with {best}",
            f"If the authors of the weights say so too, state preprocessing: {others[best]}. "
            "Known photos or a known similarity would settle it.",
        )
    else:
        finding.detail = f"no batch normalisation to judge by; photos differ by {declared:.2f} of their features' size"


def _measured(
    network: Network, candidates: dict[str, Values], measure: Callable[[Network, Tensor], float]
) -> dict[str, float]:
    steps = network.preprocess.steps
    pixels = [network.preprocess.pixels(known_photos.load(name)) for name in known_photos.names()]
    pixels_BHWC = torch.from_numpy(np.stack(pixels)).to(network.device)
    found = {}
    for name, values in candidates.items():
        batch_BCHW = Preprocessor(values.within(steps)).to(network.device)(pixels_BHWC)
        found[name] = measure(network, batch_BCHW)
    return found
