"""Architectures by name, from timm, torchvision and transformers, built without weights."""

from collections import OrderedDict
from typing import Any

import timm
import torch
import torchvision.models
from torch import nn
from torchvision.models import VGG, SqueezeNet, get_model, list_models

from app.domain.errors import ModelRejected
from app.domain.model_spec import ModelSpec
from workers.zoo.classifiers import timm_head, timm_trunk
from workers.zoo.containers import Tensors
from workers.zoo.layouts import foreign_prefix, native_state, wrapper_prefix
from workers.zoo.library_errors import first_line
from workers.zoo.timm_names import renamed_by_timm
from workers.zoo.unfilled_parameters import UnfilledParameters


def build(spec: ModelSpec) -> nn.Module:
    """Return the architecture of ``spec`` in eval mode, its parameters not set to anything meaningful.

    Raises:
        ModelRejected: ``unknown_architecture``.
    """
    library, _, name = spec.architecture.partition(":")
    if library == "transformers":
        from workers.zoo.transformers_network import build_transformers

        return build_transformers(spec)
    known = timm.is_model(name) if library == "timm" else name in list_models(module=torchvision.models)
    if not known:
        raise _unknown(spec, f"{library} has no image classifier {name}", "Check the name against the library's list.")
    try:
        module = _build_timm(name, spec) if library == "timm" else _build_torchvision(name, spec)
    except (TypeError, ValueError, KeyError, AssertionError) as error:
        if not spec.arguments:
            raise
        hint = "Give in arguments what the library's constructor takes."
        raise _unknown(spec, f"its constructor refuses {spec.arguments}: {first_line(error)}", hint) from error
    return module.eval()


def skeleton(spec: ModelSpec) -> nn.Module:
    """Return the architecture of ``spec`` with names and shapes but, wherever its constructor allows, no memory.

    Raises:
        ModelRejected: ``unknown_architecture``.
    """
    try:
        with torch.device("meta"):
            return build(spec)
    except NotImplementedError:  # a few constructors compute with their initial values
        with UnfilledParameters():
            return build(spec)


def build_with(spec: ModelSpec, tensors: Tensors) -> nn.Module:
    """Return the architecture of ``spec`` holding ``tensors``, a weights file's contents under its own names.

    Raises:
        ModelRejected: ``unknown_architecture``, ``weights_mismatch``.
    """
    if spec.architecture.startswith("transformers:"):
        from workers.zoo.transformers_network import load_transformers

        return load_transformers(spec, tensors)
    module = skeleton(spec)
    expected = module.state_dict()
    state = OrderedDict(_native_state(tensors, module, spec))
    # A file has no versions of layers: every name and shape fits, and so its layers are those of this construction.
    state._metadata = expected._metadata  # type: ignore[attr-defined]
    module.load_state_dict(state, strict=True, assign=True)
    if any(buffer.is_meta for buffer in module.buffers()):
        # Some buffers are computed on construction and not part of the state: these need a real construction.
        with UnfilledParameters():
            module = build(spec)
        module.load_state_dict(state, strict=True, assign=True)
    return module


def left_out_prefix(spec: ModelSpec, tensors: Tensors, module: nn.Module) -> str:
    """Return the prefix that ``build_with`` took off a file's names to find the architecture's, mostly ``""``."""
    if spec.architecture.startswith("transformers:"):
        return wrapper_prefix(tensors)
    return foreign_prefix(tensors, module.state_dict()) if spec.state_format == "native" else ""


def _native_state(tensors: Tensors, module: nn.Module, spec: ModelSpec) -> Tensors:
    """Give a file's tensors the architecture's names, by timm's own renaming where they have others."""
    expected = module.state_dict()
    try:
        return native_state(tensors, expected, spec.state_format)
    except ModelRejected as mismatch:
        has_function = spec.architecture.startswith("timm:") and spec.state_format == "native"
        renamed = renamed_by_timm(tensors, module) if has_function else None
        if renamed is None:
            raise
        try:
            return native_state(renamed, expected, spec.state_format)
        except ModelRejected:
            raise mismatch from None


def split(module: nn.Module, spec: ModelSpec) -> tuple[nn.Module, nn.Module | None]:
    """Split a network into its trunk, which ends at the pooled features, and its classifier, None where it has none.

    The features are what the last layer reads (``workers.zoo.classifiers``): in torchvision's networks the input of
    their last dense layer, so that the hidden dense layers of AlexNet and VGG belong to the trunk.

    Raises:
        ModelRejected: ``unknown_architecture`` where the output is not a classifier's on a vector of features.
    """
    if spec.architecture.startswith("transformers:"):
        from workers.zoo.transformers_network import split_transformers

        return split_transformers(module, spec)
    if spec.architecture.startswith("timm:"):
        if spec.head is None:
            return module, None
        try:
            return timm_trunk(module), timm_head(module)
        except ValueError as error:
            raise _unknown(spec, str(error), "Use another architecture.") from error
    if spec.head is None:
        return module, None
    name = _last_linear(module, spec)
    head = module.get_submodule(name)
    module.set_submodule(name, nn.Identity())
    return module, head


def _build_timm(name: str, spec: ModelSpec) -> nn.Module:
    # Keras pads stride-2 convolutions at the right and the bottom only, and adds 1e-3 to a variance.
    keras: dict[str, Any] = {"pad_type": "same", "bn_eps": 1e-3} if spec.state_format.startswith("keras") else {}
    classes = 0 if spec.head is None else spec.head.num_classes
    module: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, **keras, **spec.arguments)
    return module


def _build_torchvision(name: str, spec: ModelSpec) -> nn.Module:
    options: dict[str, Any] = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    if spec.head is not None:
        options["num_classes"] = spec.head.num_classes
    module: nn.Module = get_model(name, weights=None, **options, **spec.arguments)
    if spec.head is None:
        _remove_head(module, spec)
    return module


def _remove_head(module: nn.Module, spec: ModelSpec) -> None:
    if isinstance(module, VGG):
        # Its two hidden dense layers belong to the classifier: without it, the features are averaged.
        module.avgpool = nn.AdaptiveAvgPool2d(1)
        module.classifier = nn.Identity()
    elif isinstance(module, SqueezeNet):
        module.classifier = nn.AdaptiveAvgPool2d(1)
    else:
        module.set_submodule(_last_linear(module, spec), nn.Identity())


def _last_linear(module: nn.Module, spec: ModelSpec) -> str:
    if isinstance(module, SqueezeNet):
        hint = "Leave head out, and classifier.* out of the file: the features are then averaged."
        raise _unknown(spec, "it classifies every place of the image and averages the answers", hint)
    names: list[str] = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not names:
        raise _unknown(spec, "it does not end in a linear classifier", "Use another architecture.")
    return names[-1]


def _unknown(spec: ModelSpec, reason: str, hint: str) -> ModelRejected:
    message = f"{spec.architecture} cannot be used: {reason}"
    return ModelRejected("unknown_architecture", message, param="architecture", hint=hint)
