"""Image networks of the transformers library: built from a configuration, filled by the library's own loader.

Transformers takes seconds to import, so this module is imported where such a network is first needed. A network with a
classifier, or one that can have one, is the library's ``...ForImageClassification``, and its features are what that
classifier reads: each architecture's own pooling. The image towers of CLIP and SigLIP end at their ``pooler_output``,
unless the checkpoint was trained further as a classifier, which reads the mean of the patches.

B images, D features, Z source classes
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers.models.beit.modeling_beit import BeitRelativePositionBias
from transformers.utils import logging

from app.domain.errors import ModelRejected
from app.domain.model_spec import ModelSpec
from workers.zoo.containers import Tensors
from workers.zoo.layouts import COUNTER, refuse_types, weights_mismatch, wrapper_prefix
from workers.zoo.library_errors import first_line

logging.set_verbosity_error()
logging.disable_progress_bar()


@dataclass(frozen=True)
class Kind:
    """How one ``model_type`` of transformers becomes a network.

    Attributes:
        network: the class.
        classifier: where its last layer is; None for a tower without one.
        foreign: matches tensors that a checkpoint of this type may hold and that are no part of the network: a pooling
            layer that only pretraining used, the text tower of an image-text network and what joins the two.
        is_of_two: the configuration is that of an image-text network, of which ``arguments`` are the image tower's.
    """

    network: str
    classifier: str | None = "classifier"
    foreign: str | None = None
    is_of_two: bool = False


_TEXT = r"text_model\..*|(text|visual)_projection\.weight|logit_(scale|bias)"
_POOLER = r"((vit|deit)\.)?pooler\.dense\.(weight|bias)"

KINDS = {
    "beit": Kind("BeitForImageClassification"),
    "clip": Kind("CLIPForImageClassification", is_of_two=True),
    "clip_vision_model": Kind("CLIPVisionModel", classifier=None, foreign=_TEXT),
    "convnext": Kind("ConvNextForImageClassification"),
    "convnextv2": Kind("ConvNextV2ForImageClassification"),
    "deit": Kind("DeiTForImageClassification", foreign=_POOLER),
    "dinov2": Kind("Dinov2ForImageClassification"),
    "dinov2_with_registers": Kind("Dinov2WithRegistersForImageClassification"),
    "mobilenet_v2": Kind("MobileNetV2ForImageClassification"),
    "regnet": Kind("RegNetForImageClassification", classifier="classifier.1"),
    "resnet": Kind("ResNetForImageClassification", classifier="classifier.1"),
    "siglip": Kind("SiglipForImageClassification", is_of_two=True),
    "siglip_vision_model": Kind("SiglipVisionModel", classifier=None, foreign=_TEXT),
    "swin": Kind("SwinForImageClassification"),
    "swinv2": Kind("Swinv2ForImageClassification"),
    "vit": Kind("ViTForImageClassification", foreign=_POOLER),
}
TOWERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
"""Image-text networks and the type of their image tower, whose configuration is the part ``vision_config``."""

_NOT_ARGUMENTS = {"id2label", "label2id", "num_labels", "architectures", "transformers_version", "dtype", "model_type"}


class TransformersNetwork(nn.Module):
    """A network of transformers that returns a tensor: logits (B, Z), or where no classifier is, features (B, D)."""

    def __init__(self, network: nn.Module, kind: Kind) -> None:
        super().__init__()
        self.network = network
        self._output = "pooler_output" if kind.classifier is None else "logits"

    def forward(self, batch_BCHW: Tensor) -> Tensor:
        """Return what the last layer gives that is there."""
        output: Tensor = getattr(self.network(pixel_values=batch_BCHW), self._output)
        return output


def build_transformers(spec: ModelSpec) -> nn.Module:
    """Return the network of ``spec`` with weights that are not set to anything meaningful.

    Raises:
        ModelRejected: ``unknown_architecture``.
    """
    kind = kind_of(spec)
    network = _network_class(kind)._from_config(configuration(spec))
    return TransformersNetwork(network, kind).eval()


def load_transformers(spec: ModelSpec, tensors: Tensors) -> nn.Module:
    """Return the network of ``spec`` holding ``tensors``, under today's names or those of older checkpoints.

    Raises:
        ModelRejected: ``unknown_architecture``, ``weights_mismatch``.
    """
    kind, prefix = kind_of(spec), wrapper_prefix(tensors)
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    network, found = _network_class(kind).from_pretrained(
        None,
        config=configuration(spec),
        state_dict={name: tensor for name, tensor in named.items() if not _is_foreign(kind, name)},
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    differences = {
        "missing": sorted(name for name in found["missing_keys"] if not name.endswith(COUNTER)),
        "unexpected": sorted(found["unexpected_keys"]),
        "of another shape": [
            f"{name} {tuple(given)} for {tuple(wanted)}" for name, given, wanted in sorted(found["mismatched_keys"])
        ],
    }
    if any(differences.values()):
        raise weights_mismatch(differences)
    refuse_types(named, network.state_dict())
    _fill_caches(network)
    return TransformersNetwork(network, kind).eval()


def split_transformers(module: nn.Module, spec: ModelSpec) -> tuple[nn.Module, nn.Module | None]:
    """Split a network into its trunk and its classifier, None where the specification has no head."""
    kind = kind_of(spec)
    if kind.classifier is None or spec.head is None:
        return module, None
    name = f"network.{kind.classifier}"
    head = module.get_submodule(name)
    module.set_submodule(name, nn.Identity())
    return module, head


def kind_of(spec: ModelSpec) -> Kind:
    """Return how the architecture is built.

    Raises:
        ModelRejected: ``unknown_architecture``.
    """
    name = spec.architecture.partition(":")[2]
    if name not in KINDS:
        raise unknown(f"transformers:{name}", "it is no image network known here", "architecture")
    if spec.head is not None and KINDS[name].classifier is None:
        raise unknown(spec.architecture, "an image tower has no classifier", "head", "Leave head out.")
    return KINDS[name]


def configuration(spec: ModelSpec) -> Any:
    """Return the configuration that ``arguments`` describe, with as many labels as the head has classes, or none.

    Raises:
        ModelRejected: ``unknown_architecture`` for fields or values that the configuration does not have.
    """
    kind = kind_of(spec)
    config_class = _network_class(kind).config_class
    if unknown_fields := sorted(set(spec.arguments) - _fields(kind)):
        reason = f"its configuration has no {', '.join(unknown_fields)}"
        raise unknown(spec.architecture, reason, f"arguments.{unknown_fields[0]}", "Check the spelling.")
    arguments = {"vision_config": dict(spec.arguments)} if kind.is_of_two else spec.arguments
    try:
        return config_class(**arguments, num_labels=0 if spec.head is None else spec.head.num_classes)
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        hint = "Give the values of the checkpoint's config.json."
        raise unknown(spec.architecture, f"no such configuration: {first_line(error)}", "arguments", hint) from error


def arguments_of(model_type: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a config.json that says how a network of this type is built."""
    fields = _fields(KINDS[model_type])
    return {name: value for name, value in config.items() if name in fields}


def unknown(called: str, reason: str, param: str, hint: str | None = None) -> ModelRejected:
    """Return the error of an architecture that cannot be built."""
    hint = hint or "Use one of " + ", ".join(f"transformers:{name}" for name in KINDS) + "."
    return ModelRejected("unknown_architecture", f"{called} cannot be used: {reason}", param=param, hint=hint)


def _fill_caches(network: nn.Module) -> None:
    """Have BEiT compute the index that it keeps for all passes: one made in inference mode allows no training."""
    with torch.inference_mode(mode=False):
        for part in network.modules():
            if isinstance(part, BeitRelativePositionBias):
                part.generate_relative_position_index(part.window_size)


def _network_class(kind: Kind) -> Any:
    return getattr(transformers, kind.network)


def _fields(kind: Kind) -> set[str]:
    config_class = _network_class(kind).config_class
    config_class = config_class.sub_configs["vision_config"] if kind.is_of_two else config_class
    return {name for name in config_class().to_dict() if not name.startswith("_")} - _NOT_ARGUMENTS


def _is_foreign(kind: Kind, name: str) -> bool:
    return kind.foreign is not None and re.fullmatch(kind.foreign, name) is not None
