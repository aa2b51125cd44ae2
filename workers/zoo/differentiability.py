"""Whether a network can be fine-tuned, and whether its gradients can be had image by image.

B photos, C = 3 channels, H x W pixels, D features, K classes of a fresh head
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from app.domain.errors import EvaluationFailed
from workers.extract.gradients import gradient_sketches, random_probes
from workers.extract.memory import is_out_of_memory
from workers.zoo import known_photos
from workers.zoo.check_log import Finding
from workers.zoo.library_errors import first_line
from workers.zoo.network import Network

_CLASSES = 10
_LEAVE_OUT = "The model is ranked by its features alone; it has no scores of gradients and no forecast."


def check_gradients(network: Network, finding: Finding, photos: Sequence[str] | None = None) -> bool:
    """Differentiate a fresh head's loss, and sketch gradients of photos as evaluations do; warn where either fails.

    Args:
        network: left as it was.
        finding: of the check.
        photos: names of the photos; the first two by default.

    Returns:
        Whether evaluations can use the network's gradients.
    """
    photos = photos or known_photos.names()[:2]
    try:
        absent, wrong = _differentiate(network, photos)
    except RuntimeError as error:
        code = "out_of_memory" if is_out_of_memory(error) else "gradients_unsupported"
        finding.warn(code, f"the loss of a fresh head cannot be differentiated: {first_line(error)}", _LEAVE_OUT)
        return False
    finding.figures = {"parameters": len(_trunk_parameters(network)), "unused": len(absent)}
    if wrong:
        finding.warn(
            "non_finite_gradient",
            f"the gradients of {len(wrong)} parameters are NaN or infinite, first {wrong[0]}",
            "Check the weights and the preprocessing. " + _LEAVE_OUT,
        )
        return False
    try:
        sketches = gradient_sketches(
            network,
            [known_photos.load(photo) for photo in photos],
            random_probes(network.feature_dim, 1),
            batch_size=len(photos),
        )
    except EvaluationFailed as error:
        finding.warn(error.code, error.message, _LEAVE_OUT)
        return False
    finding.figures |= {"sketched": len(sketches.names), "sketched_numbers": sketches.parameters}
    finding.detail = f"finite for {len(sketches.names)} parameters, {sketches.parameters:,} numbers, image by image"
    if absent:
        finding.detail += f"; {len(absent)} do not reach the features, first {absent[0]}"
    return True


def _differentiate(network: Network, photos: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names of parameters without a gradient, and of those with one that is not finite."""
    head = nn.Linear(network.feature_dim, _CLASSES, device=network.device)
    parameters = {name: weight.detach().requires_grad_() for name, weight in _trunk_parameters(network)}
    batch_BCHW = known_photos.batch(network.preprocess, photos)
    classes_B = torch.arange(len(photos), device=network.device) % _CLASSES
    with torch.enable_grad():
        features_BD = torch.func.functional_call(network.trunk, parameters, (batch_BCHW,))
        loss = cross_entropy(head(features_BD), classes_B)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    found = dict(zip(parameters, gradients, strict=True))
    absent = [name for name, gradient in found.items() if gradient is None]
    wrong = [name for name, gradient in found.items() if gradient is not None and not gradient.isfinite().all()]
    return absent, wrong


def _trunk_parameters(network: Network) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters of the trunk; it may still hold the classifier, which plays no part in features."""
    of_head = set() if network.head is None else {id(weight) for weight in network.head.parameters()}
    return [(name, weight) for name, weight in network.trunk.named_parameters() if id(weight) not in of_head]
