"""A tuned network as anyone builds it with timm or torchvision alone: one line of code, and a plain state dict.

D features, C classes
"""

from typing import Any

import timm
import torch
import torchvision.models
from torch import Tensor, nn

from app.domain.model_spec import ModelSpec
from workers.zoo.architectures import TimmTrunk


def construction(spec: ModelSpec) -> list[str]:
    """Return the Python statements that build ``model`` for ``num_classes`` classes, its weights still random.

    They agree with ``workers.zoo.architectures``, which builds the trunk.
    """
    library, _, name = spec.architecture.partition(":")
    if library == "timm":
        keras = ', pad_type="same", bn_eps=1e-3' if spec.state_format.startswith("keras") else ""
        return [f'model = timm.create_model("{name}", pretrained=False, num_classes=num_classes{keras})']
    unset = "".join(f", {option}={value}" for option, value in _unset_options(name).items())
    classifier, features = _torchvision_classifier(spec)
    statements = [f'model = torchvision.models.get_model("{name}", weights=None{unset})']
    if spec.head is None and name.startswith("vgg"):
        statements.append("model.avgpool = torch.nn.AdaptiveAvgPool2d(1)")
    linear = f"torch.nn.Linear({features}, num_classes)"
    return [*statements, f'model.set_submodule("{classifier}", {linear})']


def classifier_name(spec: ModelSpec) -> str:
    """Return the name of the classifier inside the plain network."""
    library, _, name = spec.architecture.partition(":")
    if library == "torchvision":
        return _torchvision_classifier(spec)[0]
    with torch.device("meta"):
        module = timm.create_model(name, pretrained=False, num_classes=2)
    return _name_of(module, module.get_classifier())  # type: ignore[operator]


def plain_state(spec: ModelSpec, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a ``TunedNetwork`` under the plain network's names.

    Args:
        spec: the model that was tuned.
        weights: its state dict, as ``Tuned.weights``.
    """
    trunk, classifier = "trunk.", classifier_name(spec)
    if spec.architecture.startswith("timm:") and spec.head is not None:
        trunk = "trunk.module."  # TimmTrunk's own level
    state = {}
    for name, tensor in weights.items():
        if name.startswith(trunk):
            state[name.removeprefix(trunk)] = tensor
        else:
            state[f"{classifier}.{name.removeprefix('head.')}"] = tensor
    return state


def base_state(spec: ModelSpec, trunk: nn.Module) -> dict[str, Tensor]:
    """Return the pretrained weights under the plain network's names, without a classifier."""
    module = trunk.module if isinstance(trunk, TimmTrunk) else trunk
    classifier = classifier_name(spec) + "."
    return {name: tensor for name, tensor in module.state_dict().items() if not name.startswith(classifier)}


def _torchvision_classifier(spec: ModelSpec) -> tuple[str, int]:
    """Return the name and the width D of the last linear layer."""
    _, _, name = spec.architecture.partition(":")
    if spec.head is None and name.startswith("vgg"):
        return "classifier", 512  # its hidden dense layers belong to the classifier that it lacks
    with torch.device("meta"):
        module = torchvision.models.get_model(name, weights=None, **_unset_options(name))
    linear = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    return linear[-1][0], linear[-1][1].in_features


def _unset_options(name: str) -> dict[str, Any]:
    """Return what keeps a constructor from spending seconds on random weights that are replaced anyway."""
    return {"init_weights": False} if name.startswith(("googlenet", "inception_v3", "vgg")) else {}


def _name_of(module: nn.Module, part: nn.Module) -> str:
    name: str
    [name] = [name for name, found in module.named_modules() if found is part]
    return name
