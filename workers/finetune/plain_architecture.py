"""A tuned network as anyone builds it with its library alone: a few lines of code, and a plain state dict.

D features, C classes
"""

from typing import Any

import timm
import torch
import torchvision.models
from torch import Tensor, nn

from app.domain.model_spec import ModelSpec
from workers.zoo.classifiers import DistilledTrunk, TimmTrunk, timm_classifiers, timm_trunk


def construction(spec: ModelSpec) -> list[str]:
    """Return the Python statements that build ``model`` for ``num_classes`` classes, its weights still random.

    They agree with ``workers.zoo.architectures``, which builds the trunk.
    """
    library, _, name = spec.architecture.partition(":")
    if library == "transformers":
        return _transformers_construction(spec)
    arguments = "".join(f", {option}={value!r}" for option, value in spec.arguments.items())
    if library == "timm":
        keras = ', pad_type="same", bn_eps=1e-3' if spec.state_format.startswith("keras") else ""
        if not _is_dense(_timm_skeleton(spec)):
            return _timm_features_construction(spec, f"{keras}{arguments}")
        options = f"num_classes=num_classes{keras}{arguments}"
        return [f'model = timm.create_model("{name}", pretrained=False, {options})']
    unset = "".join(f", {option}={value}" for option, value in _unset_options(name).items())
    classifier, features = _torchvision_classifier(spec)
    statements = [f'model = torchvision.models.get_model("{name}", weights=None{unset}{arguments})']
    if spec.head is None and name.startswith("vgg"):
        statements.append("model.avgpool = torch.nn.AdaptiveAvgPool2d(1)")
    if name.startswith("squeezenet"):
        statements.append("model.classifier = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())")
    linear = f"torch.nn.Linear({features}, num_classes)"
    return [*statements, f'model.set_submodule("{classifier}", {linear})']


def classifier_name(spec: ModelSpec) -> str:
    """Return the name of the classifier inside the plain network."""
    library = spec.architecture.partition(":")[0]
    if library == "torchvision":
        return _torchvision_classifier(spec)[0]
    if library == "transformers":
        return _transformers_classifier(spec)
    module = _timm_skeleton(spec)
    return next(iter(timm_classifiers(module))) if _is_dense(module) else "1"


def plain_state(spec: ModelSpec, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a ``TunedNetwork`` under the plain network's names.

    Args:
        spec: the model that was tuned.
        weights: its state dict, as ``Tuned.weights``.
    """
    trunk, classifier = "trunk.", classifier_name(spec)
    if spec.architecture.startswith("timm:") and spec.head is not None:
        trunk = "trunk.module."  # TimmTrunk's own level
    library_prefix = _first_of_two(spec)
    if spec.architecture.startswith("transformers:"):
        trunk = "trunk.network."
    state = {}
    for name, tensor in weights.items():
        if name.startswith(trunk):
            state[library_prefix + name.removeprefix(trunk)] = tensor
        else:
            state[f"{classifier}.{name.removeprefix('head.')}"] = tensor
    return state


def base_state(spec: ModelSpec, trunk: nn.Module) -> dict[str, Tensor]:
    """Return the pretrained weights under the plain network's names, without a classifier."""
    module = trunk.module if isinstance(trunk, TimmTrunk) else trunk
    classifier = classifier_name(spec) + "."
    if spec.architecture.startswith("transformers:"):
        network = module.get_submodule("network")
        return {_first_of_two(spec) + name: tensor for name, tensor in network.state_dict().items()}
    state = module.state_dict()
    if prefix := _first_of_two(spec):
        dropped = tuple(f"{name}." for name in timm_classifiers(module))
        return {prefix + name: tensor for name, tensor in state.items() if not name.startswith(dropped)}
    return {name: tensor for name, tensor in state.items() if not name.startswith(classifier)}


def _timm_features_construction(spec: ModelSpec, options: str) -> list[str]:
    """Return statements that put a dense layer where timm has a convolution, or several classifiers and their mean."""
    name = spec.architecture.partition(":")[2]
    module = _timm_skeleton(spec)
    statements = [f'model = timm.create_model("{name}", pretrained=False, num_classes=0{options})']
    width = module.head_hidden_size
    if spec.head is not None and isinstance(timm_trunk(module), DistilledTrunk):
        statements.append("model.forward_head = lambda tokens, pre_logits=False: tokens[:, :2].flatten(1)")
        width = 2 * module.head_hidden_size  # type: ignore[operator, assignment]
    return [*statements, f"model = torch.nn.Sequential(model, torch.nn.Linear({width}, num_classes))"]


def _timm_skeleton(spec: ModelSpec) -> nn.Module:
    with torch.device("meta"):
        name = spec.architecture.partition(":")[2]
        module: nn.Module = timm.create_model(name, pretrained=False, num_classes=2, **spec.arguments)
    return module


def _is_dense(module: nn.Module) -> bool:
    """Tell whether a timm network has one classifier, a dense layer."""
    return [type(part) for part in timm_classifiers(module).values()] == [nn.Linear]


def _transformers_construction(spec: ModelSpec) -> list[str]:
    """Return statements whose network answers with a tensor, where the library's own answers with an object."""
    from workers.zoo.transformers_network import configuration, kind_of

    kind, config = kind_of(spec), configuration(spec)
    name = type(config).__name__
    classes = "" if kind.classifier is None else ", num_labels=num_classes"
    arguments = f"vision_config={spec.arguments!r}" if kind.is_of_two else f"**{spec.arguments!r}"
    statements = [
        f"config = transformers.{name}({arguments}{classes})",
        f"model = transformers.{kind.network}(config)",
    ]
    if kind.classifier is not None:
        return [*statements, "model.register_forward_hook(lambda module, args, output: output.logits)"]
    linear = f"torch.nn.Linear({config.hidden_size}, num_classes)"
    pooled = "model.register_forward_hook(lambda module, args, output: output.pooler_output)"
    return [*statements, pooled, f"model = torch.nn.Sequential(model, {linear})"]


def _transformers_classifier(spec: ModelSpec) -> str:
    from workers.zoo.transformers_network import kind_of

    return kind_of(spec).classifier or "1"


def _first_of_two(spec: ModelSpec) -> str:
    """Return the prefix of a network that is the first of a sequence, the new classifier being the second."""
    library = spec.architecture.partition(":")[0]
    if library == "transformers":
        return "0." if _transformers_classifier(spec) == "1" else ""
    return "0." if library == "timm" and not _is_dense(_timm_skeleton(spec)) else ""


def _torchvision_classifier(spec: ModelSpec) -> tuple[str, int]:
    """Return the name and the width D of the last linear layer."""
    _, _, name = spec.architecture.partition(":")
    if spec.head is None and name.startswith("vgg"):
        return "classifier", 512  # its hidden dense layers belong to the classifier that it lacks
    if name.startswith("squeezenet"):
        return "classifier.2", 512  # a dense layer after averaging, in the place of a convolution before
    with torch.device("meta"):
        module = torchvision.models.get_model(name, weights=None, **_unset_options(name), **spec.arguments)
    linear = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    return linear[-1][0], linear[-1][1].in_features


def _unset_options(name: str) -> dict[str, Any]:
    """Return what keeps a constructor from spending seconds on random weights that are replaced anyway."""
    return {"init_weights": False} if name.startswith(("googlenet", "inception_v3", "vgg")) else {}
