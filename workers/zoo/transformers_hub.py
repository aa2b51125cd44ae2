"""Weights on the Hub in the format of transformers, and all that their repository states about them."""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.domain.errors import ModelRejected
from app.domain.model_sources import TransformersSource
from app.domain.model_spec import Head, ModelSpec, Pretraining
from workers.zoo.download import verify_sha256
from workers.zoo.hub import CONFIG, fetch_json, fetch_weights, find_repository
from workers.zoo.labels import label_set
from workers.zoo.licenses import spdx
from workers.zoo.transfer import Transfer

PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"

_METHODS = {"dinov2": "dinov2", "dinov2_with_registers": "dinov2"}
_METHODS |= {"clip_vision_model": "image-text", "siglip_vision_model": "image-text"}
_METHODS |= {"clip": "image-text, fine-tuned", "siglip": "image-text, fine-tuned"}
_TIMM_HAS = {"DeiTForImageClassificationWithTeacher": "deit_tiny_distilled_patch16_224.fb_in1k, or small, or base"}
"""Networks that are not built here, and the same ones of timm."""

_MOVED = "The file of this revision is another one than when the hash was stated: state both anew."


def fetch_transformers(source: TransformersSource, transfer: Transfer) -> Path:
    """Bring the weights file into the transfer's directory, its hash verified where it is stated.

    Raises:
        ModelRejected: as ``workers.zoo.hub``; ``weights_hash_mismatch``.
    """
    path = fetch_weights(find_repository(source.id, source.revision), transfer)
    if source.sha256 is not None:
        verify_sha256(path, source.sha256, f"the weights file of {source.id}", "source.sha256", _MOVED)
    return path


def resolve_transformers(spec: ModelSpec, source: TransformersSource, sha256: str) -> ModelSpec:
    """Fill in what the repository states about the weights; what the specification states itself stays.

    Args:
        spec: a specification with this source.
        source: at a commit.
        sha256: hash of the weights file, which pins the source.

    Raises:
        ModelRejected: as ``workers.zoo.hub``; ``invalid_hub_config``, ``remote_code``, ``unknown_architecture``,
            ``incomplete_preprocessing``.
    """
    from workers.zoo.transformers_preprocessing import preprocessing_of

    repository = find_repository(source.id, source.revision)
    with tempfile.TemporaryDirectory() as folder:
        config = fetch_json(repository, CONFIG, Path(folder))
        preprocessor = fetch_json(repository, PREPROCESSOR, Path(folder))
        if preprocessor is None and (processor := fetch_json(repository, PROCESSOR, Path(folder))) is not None:
            preprocessor = processor.get("image_processor")
    for name, content in ((CONFIG, config), (PREPROCESSOR, preprocessor)):
        _refuse_remote_code(name, content, source.id)
    model_type, arguments, classes = _architecture(config, source.id)
    head = None if classes is None else Head(num_classes=classes, label_set=label_set(classes))
    pretraining = Pretraining(datasets=repository.datasets, method=_METHODS.get(model_type, "supervised"))
    return dataclasses.replace(
        spec,
        source=dataclasses.replace(source, sha256=sha256),
        architecture=spec.architecture or f"transformers:{model_type}",
        arguments=spec.arguments or arguments,
        license=spec.license or spdx(repository.license),
        preprocessing=spec.preprocessing or preprocessing_of(preprocessor, model_type),
        head=spec.head or head,
        pretraining=spec.pretraining or pretraining,
        homepage=spec.homepage or repository.page,
    )


def _architecture(config: Mapping[str, Any] | None, called: str) -> tuple[str, dict[str, Any], int | None]:
    """Return a checkpoint's type, its arguments and its number of classes, None without a classifier."""
    from workers.zoo.transformers_network import KINDS, TOWERS, arguments_of, unknown

    config = config or {}
    model_type, name = str(config.get("model_type")), str((config.get("architectures") or [""])[0])
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, Mapping) else int(config.get("num_labels") or 2)
    if model_type in TOWERS and isinstance(config.get("vision_config"), Mapping):
        is_classifier = name == KINDS[model_type].network
        model_type, config = model_type if is_classifier else TOWERS[model_type], config["vision_config"]
    if model_type not in KINDS:
        raise unknown(called, f"its model_type is {config.get('model_type')!r}", "source.id")
    kind = KINDS[model_type]
    if kind.classifier is None or name.endswith(("Model", "Backbone")):
        classes = None
    elif name == kind.network:
        classes = count
    elif name in _TIMM_HAS:
        raise unknown(called, f"{name} has two classifiers", "source.id", f"Register timm's: {_TIMM_HAS[name]}.")
    else:
        reason = f"it was saved as {name or 'nothing that it names'}, which is neither a classifier nor a backbone"
        raise unknown(called, reason, "source.id", f"Save it as {kind.network}.")
    return model_type, arguments_of(model_type, config), classes


def _refuse_remote_code(name: str, content: Mapping[str, Any] | None, called: str) -> None:
    if content is not None and "auto_map" in content:
        raise ModelRejected(
            "remote_code",
            f"{name} of {called} asks for code of the repository to be run",
            param="source.id",
            hint="Use a variant whose architecture is part of transformers; code of a repository is never run.",
        )
