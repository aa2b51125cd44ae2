"""Weights by torchvision's name for them, and all that torchvision states about them."""

import dataclasses
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from torchvision.models import WeightsEnum, get_model_weights
from torchvision.transforms import InterpolationMode

from app.domain.errors import ModelRejected
from app.domain.model_spec import Head, Interpolation, ModelSpec, Preprocessing, Pretraining, TorchvisionSource
from workers.zoo.download import download, verify_sha256
from workers.zoo.transfer import Transfer

MIRROR = "FORETUNE_TORCHVISION_MIRROR"
"""Environment variable: the URL of a folder that holds torchvision's weights files under their own names."""

INTERPOLATIONS: dict[InterpolationMode, Interpolation] = {
    InterpolationMode.BILINEAR: "bilinear",
    InterpolationMode.BICUBIC: "bicubic",
}


_SWAG_LICENSE = "https://github.com/facebookresearch/SWAG/blob/main/LICENSE"
_LICENSES = {_SWAG_LICENSE: "CC-BY-NC-4.0"}


def find_entry(entry: str) -> WeightsEnum:
    """Return torchvision's weights for ``MODEL.WEIGHTS``, such as ``resnet50.IMAGENET1K_V2``.

    Raises:
        ModelRejected: ``unknown_weights_entry``.
    """
    model, _, name = entry.partition(".")
    try:
        entries = get_model_weights(model)
        weights: WeightsEnum = entries[name]
    except (ValueError, KeyError) as error:
        raise ModelRejected(
            "unknown_weights_entry",
            f"this torchvision knows no weights {entry}",
            param="source.entry",
            hint="Take the names from torchvision's table of classification weights: resnet50.IMAGENET1K_V2.",
        ) from error
    return weights


def fetch_entry(source: TorchvisionSource, transfer: Transfer) -> Path:
    """Download the weights file, checked against the hash in its name and, where pinned, against all of it.

    Raises:
        ModelRejected: ``unknown_weights_entry``, ``weights_unavailable``, ``weights_hash_mismatch``,
            ``no_room_on_disk``.
    """
    url = find_entry(source.entry).url
    name = Path(urlsplit(url).path).name
    mirror = os.environ.get(MIRROR)
    path = transfer.directory / name
    download(f"{mirror.rstrip('/')}/{name}" if mirror else url, path, transfer)
    verify_sha256(path, name.rpartition("-")[2].removesuffix(".pth"), name, "source.entry")
    if source.sha256 is not None:
        verify_sha256(path, source.sha256, name, "source.sha256")
    return path


def resolve(spec: ModelSpec, sha256: str) -> ModelSpec:
    """Fill in what torchvision states about a torchvision source; what the specification states itself stays.

    Args:
        spec: a specification with a torchvision source.
        sha256: hash of the weights file, which pins the source.

    Raises:
        ModelRejected: ``unknown_weights_entry``; ``incomplete_preprocessing`` for transforms we have no words for.
    """
    if not isinstance(spec.source, TorchvisionSource):
        return spec
    weights = find_entry(spec.source.entry)
    meta: dict[str, Any] = weights.meta
    if not meta.get("categories"):
        raise ModelRejected(
            "unknown_weights_entry",
            f"{spec.source.entry} holds the weights of a part of the network only",
            param="source.entry",
            hint="Use another entry of the same network.",
        )
    imagenet = "ImageNet-1K" in meta["_metrics"]
    license_ = meta.get("license", "BSD-3-Clause")
    return dataclasses.replace(
        spec,
        source=dataclasses.replace(spec.source, sha256=sha256),
        arguments=spec.arguments or _arguments(spec.source.entry, meta),
        license=spec.license or _LICENSES.get(license_, license_),
        preprocessing=spec.preprocessing or _preprocessing(weights),
        head=spec.head or Head(num_classes=len(meta["categories"]), label_set="imagenet-1k" if imagenet else "other"),
        pretraining=spec.pretraining or _pretraining(weights.name, imagenet=imagenet),
        homepage=spec.homepage or meta.get("recipe"),
    )


def _arguments(entry: str, meta: dict[str, Any]) -> dict[str, Any]:
    """Return what torchvision's constructors change by themselves where they are given weights."""
    if entry.startswith(("googlenet.", "inception_v3.")):
        return {"transform_input": True}
    if entry.startswith("vit_"):
        return {"image_size": meta["min_size"][0]}
    return {}


def _pretraining(name: str, *, imagenet: bool) -> Pretraining:
    datasets = ("imagenet-1k",) if imagenet else ()
    if "SWAG" in name:
        return Pretraining(datasets=("instagram-3.6b", *datasets), method="weakly supervised, fine-tuned")
    return Pretraining(datasets=datasets)


def _preprocessing(weights: WeightsEnum) -> Preprocessing:
    transforms: Any = weights.transforms()
    try:
        (resize,), (crop,) = transforms.resize_size, transforms.crop_size
        return Preprocessing(
            resize=resize,
            crop=(crop, crop),
            interpolation=INTERPOLATIONS[transforms.interpolation],
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
        )
    except (AttributeError, KeyError, ValueError) as error:
        raise ModelRejected(
            "incomplete_preprocessing",
            f"the transforms of {weights} are not a resize, a centre crop and a normalisation",
            param="preprocessing",
            hint="State the preprocessing in the specification.",
        ) from error
