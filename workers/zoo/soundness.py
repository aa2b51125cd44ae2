"""What must hold of any network before its features are trusted.

B photos, C = 3 channels, H x W pixels, D features, Z source classes
"""

import torch
from torch import Tensor, nn

from app.domain.errors import ModelRejected
from app.domain.model_spec import ModelSpec
from workers.extract.memory import is_out_of_memory
from workers.zoo.library_errors import first_line
from workers.zoo.network import Network

SAME_PHOTOS = 1e-6
"""Features that differ between photos by less, relative to their size, are the same for every image."""

SAME_PASS = 1e-6
"""Largest relative difference between two passes over the same batch."""

SAME_IMAGE = 1e-4
"""Largest relative difference between an image alone and in a batch: libraries choose kernels by batch size."""


def describe_preprocessing(spec: ModelSpec) -> str:
    """Return the preprocessing in words.

    Raises:
        ModelRejected: ``incomplete_preprocessing``.
    """
    steps = spec.preprocessing
    if steps is None:
        raise ModelRejected(
            "incomplete_preprocessing",
            "the specification does not say how images are prepared",
            param="preprocessing",
            hint="State resize, crop, interpolation, mean and std as in the network's training.",
        )
    size = f"{steps.crop[0]} x {steps.crop[1]}"
    way = f"stretched to {size}" if steps.resize is None else f"shorter side {steps.resize}, centre {size}"
    return f"{way}, {steps.interpolation}, {steps.channels}, /{steps.divide_by:g}, mean {steps.mean}, std {steps.std}"


def check_finite_weights(module: nn.Module) -> str:
    """Refuse NaN and infinity in any tensor of the state.

    Raises:
        ModelRejected: ``non_finite_weights``.
    """
    wrong = [name for name, tensor in module.state_dict().items() if not torch.isfinite(tensor).all()]
    if wrong:
        raise ModelRejected(
            "non_finite_weights",
            f"{len(wrong)} tensors hold NaN or infinity, first {wrong[0]}",
            param="source",
            hint="The training diverged or the file is damaged: use another checkpoint.",
        )
    return f"{len(module.state_dict())} tensors, all finite"


def check_forward(network: Network, module: nn.Module, batch_BCHW: Tensor) -> str:
    """Run photos through: one finite vector each, and the head on the features gives the architecture's own output.

    Args:
        network: the split network.
        module: the same weights in the architecture as its library builds it.
        batch_BCHW: photos.

    Raises:
        ModelRejected: ``forward_failed``, ``features_not_pooled``, ``non_finite_features``, ``constant_features``.
    """
    try:
        features_BD, logits_BZ = _pass(network, batch_BCHW)
        with torch.inference_mode():
            outputs_BZ = features_BD if network.projection is None else network.projection(features_BD)
            own_BZ = module.eval()(batch_BCHW[:1])
    except (RuntimeError, AssertionError, ValueError, TypeError, AttributeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelRejected(
            "forward_failed",
            f"the network cannot process images of {tuple(batch_BCHW.shape[1:])}: {first_line(error)}",
            param="preprocessing.crop",
            hint="Give the input size that the architecture is built for.",
        ) from error
    if features_BD.ndim != 2 or not isinstance(own_BZ, Tensor):
        raise ModelRejected(
            "features_not_pooled",
            f"features have shape {tuple(features_BD.shape)}, not one vector an image",
            param="architecture",
            hint="Use an architecture that pools its last feature map.",
        )
    outputs_BZ = outputs_BZ if logits_BZ is None else logits_BZ
    if not (torch.isfinite(features_BD).all() and torch.isfinite(outputs_BZ).all()):
        raise ModelRejected(
            "non_finite_features",
            "the network turns photos into NaN or infinity",
            param="source",
            hint="Check the preprocessing, and that the weights are those of this architecture.",
        )
    if _relative_difference(features_BD[1:], features_BD[:1].expand_as(features_BD[1:])) <= SAME_PHOTOS:
        raise ModelRejected(
            "constant_features",
            f"{len(features_BD)} different photos have the same features",
            param="source",
            hint="Check the weights and the preprocessing: no class can be told from another by such features.",
        )
    if (difference := _relative_difference(outputs_BZ[:1], own_BZ)) > SAME_IMAGE:
        raise ModelRejected(
            "features_not_pooled",
            f"the classifier on the features is off by {difference:.1e} from the architecture's own output",
            param="architecture",
            hint="Use an architecture whose last step is one classifier on pooled features.",
        )
    without = "no head" if network.projection is None else "a projection that names no classes"
    classes = without if logits_BZ is None else f"{logits_BZ.shape[1]} source classes"
    return f"{features_BD.shape[1]} features, {classes}, all finite on {len(features_BD)} photos"


def check_deterministic(network: Network, batch_BCHW: Tensor) -> str:
    """Run the same photos twice.

    Raises:
        ModelRejected: ``not_deterministic``.
    """
    difference = _relative_difference(_pass(network, batch_BCHW)[0], _pass(network, batch_BCHW)[0])
    if difference > SAME_PASS:
        raise ModelRejected(
            "not_deterministic",
            f"two passes over the same photos differ by {difference:.1e}",
            param="architecture",
            hint="Something in it is random at inference, such as dropout outside of eval mode.",
        )
    return f"two passes differ by {difference:.1e}"


def check_batch_invariant(network: Network, batch_BCHW: Tensor) -> str:
    """Run four photos together and one by one.

    Raises:
        ModelRejected: ``not_batch_invariant``.
    """
    together_BD = _pass(network, batch_BCHW[:4])[0]
    alone_BD = torch.cat([_pass(network, one_1CHW)[0] for one_1CHW in torch.split(batch_BCHW[:4], 1)])
    difference = _relative_difference(together_BD, alone_BD)
    if difference > SAME_IMAGE:
        raise ModelRejected(
            "not_batch_invariant",
            f"a photo's features differ by {difference:.1e} when other photos share its batch",
            param="architecture",
            hint="Something in it normalises over the batch at inference.",
        )
    return f"features alone and in a batch of 4 differ by {difference:.1e}"


def check_license(spec: ModelSpec) -> str:
    """Return the licence.

    Raises:
        ModelRejected: ``license_missing``.
    """
    if spec.license.strip().lower() in {"", "unknown", "none", "other"}:
        raise ModelRejected(
            "license_missing",
            f"{spec.name} states no licence",
            param="license",
            hint="Give the SPDX identifier under which the weights may be used, such as Apache-2.0.",
        )
    return spec.license


def _pass(network: Network, batch_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
    with torch.inference_mode():
        features_BD, logits_BZ = network(batch_BCHW)
    return features_BD, logits_BZ


def _relative_difference(first: Tensor, second: Tensor) -> float:
    scale = max(float(first.abs().max()), torch.finfo(torch.float32).tiny)
    return float((first - second).abs().max()) / scale
