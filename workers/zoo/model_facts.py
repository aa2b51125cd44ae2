"""What admission finds out about a model beside whether it is sound: its kind, its size and its identity."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from app.domain.model_spec import ModelSpec
from workers.zoo.layouts import COUNTER
from workers.zoo.network import Network


def family(module: nn.Module, spec: ModelSpec) -> str:
    """Return what kind of network it is, in lower case: ``resnet``, ``vision_transformer``, ``vit``.

    It is the Python module in which the library defines the network, or transformers' type of the model.
    """
    library, _, name = spec.architecture.partition(":")
    if library == "transformers":
        return name.lower()
    return type(module).__module__.rpartition(".")[2].lower()


def depth(network: Network) -> int:
    """Return the number of layers with weights: matrices and convolutions, not scales and not position tables."""
    return sum(
        any(name.endswith("weight") and weight.ndim > 1 for name, weight in part.named_parameters(recurse=False))
        for part in network.modules()
    )


def gigaflops(network: Network, image_1CHW: Tensor) -> float:
    """Return 10^9 floating-point operations of a forward pass of one image, a multiply-add being two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image_1CHW)
    return float(counter.get_total_flops()) / 1e9


def tensors_sha256(module: nn.Module) -> str:
    """Return a digest of the weights under the architecture's own names: the same in whatever file they came.

    Covers name, type, shape and bytes of each tensor of the state, sorted by name, less the step counters of batch
    normalisation, which change nothing at inference and which older files lack.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not name.endswith(COUNTER):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def sizes(network: Network) -> dict[str, Any]:
    """Return feature_dim, num_classes (None without a head), parameters and depth."""
    return {
        "feature_dim": network.feature_dim,
        "num_classes": network.num_classes,
        "parameters": network.num_parameters,
        "depth": depth(network),
    }
