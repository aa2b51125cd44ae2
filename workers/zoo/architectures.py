"""Architectures by name, from timm and torchvision, built without weights."""

from typing import Any

import timm
import torch
import torchvision.models
from torch import nn
from torchvision.models import VGG, get_model, list_models

from app.domain.errors import ModelRejected
from app.domain.model_spec import ModelSpec
from workers.zoo.containers import Tensors
from workers.zoo.layouts import native_state


class TimmTrunk(nn.Module):
    """A timm network up to its pooled features, the input of its classifier."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the features (B, D)."""
        features_BD: torch.Tensor = self.module.forward_head(self.module.forward_features(batch_BCHW), pre_logits=True)  # type: ignore[operator]
        return features_BD


def build(spec: ModelSpec) -> nn.Module:
    """Return the architecture of ``spec`` in eval mode, its parameters not set to anything meaningful.

    Raises:
        ModelRejected: ``unknown_architecture``.
    """
    library, _, name = spec.architecture.partition(":")
    known = timm.is_model(name) if library == "timm" else name in list_models(module=torchvision.models)
    if not known:
        raise _unknown(spec, f"{library} has no image classifier {name}", "Check the name against the library's list.")
    return (_build_timm(name, spec) if library == "timm" else _build_torchvision(name, spec)).eval()


def skeleton(spec: ModelSpec) -> nn.Module:
    """Return the architecture of ``spec`` with names and shapes but, wherever its constructor allows, no memory.

    Raises:
        ModelRejected: ``unknown_architecture``.
    """
    try:
        with torch.device("meta"):
            return build(spec)
    except NotImplementedError:  # a few constructors compute with their initial values
        return build(spec)


def build_with(spec: ModelSpec, tensors: Tensors) -> nn.Module:
    """Return the architecture of ``spec`` holding ``tensors``, a weights file's contents under its own names.

    Raises:
        ModelRejected: ``unknown_architecture``, ``weights_mismatch``.
    """
    module = skeleton(spec)
    state = native_state(tensors, module.state_dict(), spec.state_format)
    module.load_state_dict(state, strict=True, assign=True)
    if any(buffer.is_meta for buffer in module.buffers()):
        # Some buffers are computed on construction and not part of the state: these need a real construction.
        module = build(spec)
        module.load_state_dict(state, strict=True)
    return module


def split(module: nn.Module, spec: ModelSpec) -> tuple[nn.Module, nn.Module | None]:
    """Split a network into its trunk, which ends at the pooled features, and its classifier, None where it has none.

    Raises:
        ModelRejected: ``unknown_architecture`` where the network has no single classifier at its end.
    """
    if spec.architecture.startswith("timm:"):
        if spec.head is None:
            return module, None
        head = module.get_classifier()  # type: ignore[operator]
        if not isinstance(head, nn.Module):
            raise _unknown(spec, "it has several classifiers", "Use the variant with one classifier.")
        return TimmTrunk(module), head
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
    module: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, **keras)
    return module


def _build_torchvision(name: str, spec: ModelSpec) -> nn.Module:
    options: dict[str, Any] = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    if spec.head is not None:
        options["num_classes"] = spec.head.num_classes
    module: nn.Module = get_model(name, weights=None, **options)
    if spec.head is None:
        _remove_head(module, spec)
    return module


def _remove_head(module: nn.Module, spec: ModelSpec) -> None:
    if isinstance(module, VGG):
        # Its two hidden dense layers belong to the classifier: without it, the features are averaged.
        module.avgpool = nn.AdaptiveAvgPool2d(1)
        module.classifier = nn.Identity()
    else:
        module.set_submodule(_last_linear(module, spec), nn.Identity())


def _last_linear(module: nn.Module, spec: ModelSpec) -> str:
    names: list[str] = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not names:
        raise _unknown(spec, "it does not end in a linear classifier", "Use another architecture.")
    return names[-1]


def _unknown(spec: ModelSpec, reason: str, hint: str) -> ModelRejected:
    message = f"{spec.architecture} cannot be used: {reason}"
    return ModelRejected("unknown_architecture", message, param="architecture", hint=hint)
