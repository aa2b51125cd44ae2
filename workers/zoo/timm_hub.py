"""Weights that timm names, or that lie on the Hub in timm's format, and all that timm states about them."""

import dataclasses
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
from timm.data.config import resolve_data_config
from timm.models import PretrainedCfg

from app.domain.errors import ModelRejected
from app.domain.model_sources import HUB_PREFIX, TimmSource
from app.domain.model_spec import Head, ModelSpec, Preprocessing
from workers.zoo.download import download, verify_sha256
from workers.zoo.hub import CONFIG, Repository, fetch_json, fetch_weights, find_repository
from workers.zoo.labels import label_set, timm_label_set
from workers.zoo.library_errors import first_line
from workers.zoo.licenses import spdx
from workers.zoo.pretraining_tags import pretraining_of
from workers.zoo.transfer import Transfer

_NAMED_BY_HASH = re.compile(r".*-([0-9a-f]{8,64})\.[a-z.]+")
_MOVED = "The file of this revision is another one than when the hash was stated: state both anew."


@dataclass(frozen=True)
class TimmConfig:
    """What timm's registry, or a repository's config.json, says of some weights.

    Attributes:
        architecture: timm's name of it.
        arguments: its constructor's.
        pretrained: timm's ``pretrained_cfg``.
    """

    architecture: str
    pretrained: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)


def registered(source: TimmSource) -> PretrainedCfg:
    """Return what the installed timm says of ``ARCHITECTURE.TAG``.

    Raises:
        ModelRejected: ``unknown_weights_entry``.
    """
    architecture, _, tag = source.id.partition(".")
    try:
        config = timm.get_pretrained_cfg(source.id) if timm.is_model(architecture) else None
    except RuntimeError:
        config = None  # the architecture has no such tag
    if config is None or config.tag != tag or not (config.hf_hub_id or config.url):
        raise ModelRejected(
            "unknown_weights_entry",
            f"timm {timm.__version__} knows no weights {source.id}",
            param="source.id",
            hint="Take the name from timm.list_pretrained(), or write hf-hub:ORGANISATION/NAME.",
        )
    return config


def find_timm(source: TimmSource) -> Repository | None:
    """Return the repository of the weights at the revision that the source states; None where they lie at a URL.

    Raises:
        ModelRejected: as ``workers.zoo.hub.find_repository``; ``unknown_weights_entry``.
    """
    if source.id.startswith(HUB_PREFIX):
        return find_repository(source.id.removeprefix(HUB_PREFIX), source.revision)
    name = registered(source).hf_hub_id
    if not name:
        return None
    repository, _, revision = name.partition("@")
    return find_repository(repository, source.revision or revision or None)


def fetch_timm(source: TimmSource, transfer: Transfer) -> Path:
    """Bring the weights file into the transfer's directory, its hash verified where it is stated.

    Raises:
        ModelRejected: as ``workers.zoo.hub``; ``weights_hash_mismatch``, ``unknown_weights_entry``.
    """
    repository = find_timm(source)
    if repository is not None:
        config = None if source.id.startswith(HUB_PREFIX) else registered(source)
        name = config.hf_hub_filename if config is not None else None
        path = fetch_weights(repository, transfer, _safe_name(name, repository))
    else:
        path = _download(str(registered(source).url), transfer)
    if source.sha256 is not None:
        verify_sha256(path, source.sha256, f"the weights file of {source.id}", "source.sha256", _MOVED)
    return path


def resolve_timm(spec: ModelSpec, source: TimmSource, sha256: str) -> ModelSpec:
    """Fill in what timm states about the weights; what the specification states itself stays.

    Args:
        spec: a specification with this source.
        source: at a commit, where the weights lie on the Hub.
        sha256: hash of the weights file, which pins the source.

    Raises:
        ModelRejected: as ``workers.zoo.hub``; ``invalid_hub_config``, ``incomplete_preprocessing``.
    """
    license_, page = "", ""
    if source.id.startswith(HUB_PREFIX):
        repository = find_repository(source.id.removeprefix(HUB_PREFIX), source.revision)
        with tempfile.TemporaryDirectory() as folder:
            config = read_config(fetch_json(repository, CONFIG, Path(folder)), repository.id)
        license_, page, tag = repository.license, repository.page, source.id.partition(".")[2]
    else:
        known = registered(source)
        config = TimmConfig(known.architecture or source.id.partition(".")[0], known.to_dict())  # type: ignore[no-untyped-call]
        tag = str(known.tag)
    pretrained = config.pretrained
    return dataclasses.replace(
        spec,
        source=dataclasses.replace(source, sha256=sha256),
        architecture=spec.architecture or f"timm:{config.architecture}",
        arguments=spec.arguments or config.arguments,
        license=spec.license or spdx(str(pretrained.get("license") or license_ or "")),
        preprocessing=spec.preprocessing or preprocessing_of(pretrained),
        head=spec.head or _head(pretrained, config.architecture, tag),
        pretraining=spec.pretraining or pretraining_of(str(pretrained.get("tag") or tag)),
        homepage=spec.homepage or page or _page(pretrained),
    )


def read_config(content: Mapping[str, Any] | None, repository: str) -> TimmConfig:
    """Read a repository's config.json, of which there is an older and a newer form.

    Raises:
        ModelRejected: ``invalid_hub_config``.
    """
    content = content or {}
    nested = content.get("pretrained_cfg")
    pretrained = dict(nested) if isinstance(nested, Mapping) else dict(content)
    for name in ("num_classes", "label_names"):
        if name in content:
            pretrained[name] = content[name]
    architecture, arguments = content.get("architecture"), content.get("model_args") or {}
    if not isinstance(architecture, str) or not timm.is_model(architecture) or not isinstance(arguments, Mapping):
        raise ModelRejected(
            "invalid_hub_config",
            f"{CONFIG} of {repository} names no architecture of timm {timm.__version__}: {architecture!r}",
            param="source.id",
            hint="Check that timm made the repository; for one of transformers use a source of type transformers.",
        )
    return TimmConfig(architecture, pretrained, dict(arguments))


def preprocessing_of(pretrained: Mapping[str, Any]) -> Preprocessing:
    """Return the evaluation transform that timm makes of a ``pretrained_cfg``, at its test size.

    Raises:
        ModelRejected: ``incomplete_preprocessing`` where it does something that we have no words for.
    """
    # A network of fixed size was built for its training size; timm itself tests others at their test size.
    options = {"pretrained_cfg": dict(pretrained), "use_test_size": not pretrained.get("fixed_input_size")}
    data: dict[str, Any] = resolve_data_config({}, **options)  # type: ignore[no-untyped-call]
    try:
        channels, height, width = data["input_size"]
        scaled = math.floor(height / data["crop_pct"]), math.floor(width / data["crop_pct"])
        if channels != 3 or data["crop_mode"] not in {"center", "squash"}:
            raise ValueError(f"crop_mode {data['crop_mode']!r} on {channels} channels")
        if data["crop_mode"] == "squash":
            resize: int | tuple[int, int] | None = None if scaled == (height, width) else scaled
        elif height == width:
            resize = scaled[0]
        else:
            raise ValueError(f"a centre crop of {height} x {width}, which is not square")
        return Preprocessing(
            resize=resize,
            crop=(height, width),
            interpolation=_interpolation(data["interpolation"]),
            mean=_channels(data["mean"]),
            std=_channels(data["std"]),
        )
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ModelRejected(
            "incomplete_preprocessing",
            f"timm's transform cannot be said in a specification: {first_line(error)}",
            param="preprocessing",
            hint="State the preprocessing in the specification.",
        ) from error


def _channels(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _interpolation(name: str) -> Any:
    if name not in {"nearest", "bilinear", "bicubic", "lanczos"}:
        raise ValueError(f"interpolation {name!r}")
    return name


def _head(pretrained: Mapping[str, Any], architecture: str, tag: str) -> Head | None:
    classes = pretrained.get("num_classes")
    if not isinstance(classes, int) or classes < 1:
        return None
    if pretrained.get("label_names"):
        return Head(num_classes=classes, label_set=label_set(classes))
    return Head(num_classes=classes, label_set=timm_label_set(classes, architecture, str(pretrained.get("tag") or tag)))


def _page(pretrained: Mapping[str, Any]) -> str | None:
    if pretrained.get("hf_hub_id"):
        return f"https://huggingface.co/{str(pretrained['hf_hub_id']).partition('@')[0]}"
    return pretrained.get("origin_url") or None


def _safe_name(name: str | None, repository: Repository) -> str | None:
    """Return the safetensors file beside a PyTorch file that timm names, where there is one."""
    if name is None:
        return None
    safe = name.rpartition(".")[0].replace("pytorch_model", "model") + ".safetensors"
    return safe if safe in repository.sizes else name


def _download(url: str, transfer: Transfer) -> Path:
    """Download a file, checked against the hash that its name ends in, as timm's and torch's own names do."""
    path = transfer.directory / Path(urlsplit(url).path).name
    download(url, path, transfer)
    if named := _NAMED_BY_HASH.fullmatch(path.name):
        verify_sha256(path, named[1], path.name, "source.id")
    return path
