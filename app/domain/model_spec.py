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
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal, Union

from app.domain.errors import BadRequest
from app.domain.labels import MODEL_NAME_HINT, is_model_name
from app.domain.model_sources import (
    PackageSource,
    PluginSource,
    SafetensorsSource,
    Source,
    TimmSource,
    TorchvisionSource,
    TransformersSource,
    UploadSource,
    check_source,
    implied_architecture,
    with_revision_apart,
)

__all__ = [
    "Head",
    "Interpolation",
    "KnownPhoto",
    "KnownSimilarity",
    "ModelSpec",
    "PackageSource",
    "PluginSource",
    "Preprocessing",
    "Pretraining",
    "SafetensorsSource",
    "Source",
    "StateFormat",
    "TimmSource",
    "TorchvisionSource",
    "TransformersSource",
    "UploadSource",
]

Interpolation = Literal["bilinear", "bicubic", "nearest", "lanczos"]

StateFormat = Literal["native", "by_order", "keras_mobilenet_v2", "keras_hed_vgg16"]
"""How the tensors in the file name the architecture's parameters.

``native``: by the architecture's own names. ``by_order``: other names, same tensors in the same order.
``keras_mobilenet_v2``, ``keras_hed_vgg16``: Keras's names and axis order for these two networks.
"""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a canonical RGB image becomes the network's input.

    The shorter side is resized to ``resize`` pixels with antialiasing and the centre ``crop`` (height, width) is cut
    out; where ``resize`` is a height and a width, the image is stretched to these first; where it is None, to ``crop``,
    and nothing is cut. Where the margins of the crop cannot be equal, its corner is ``rounded`` to a pixel, half to
    even, as torchvision and timm do, or ``floored`` as transformers does. Channels are put in ``channels`` order, 8-bit
    values are divided by ``divide_by``, then ``(x - mean) / std``.
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int]
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_corner: Literal["rounded", "floored"] = "rounded"
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

    ``architecture`` is ``timm:NAME``, ``torchvision:NAME`` or ``transformers:MODEL_TYPE``, built with ``arguments``: of
    timm and torchvision what the constructor takes, of transformers the configuration. A network without ``head`` ends
    at its pooled features. For torchvision, timm and transformers sources all but ``name`` and ``source`` may be left
    out: admission fills in what the source states.
    """

    name: str
    source: Source
    architecture: str = ""
    arguments: dict[str, Any] = field(default_factory=dict, hash=False)
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

        The names of torchvision's and timm's weights imply an architecture, which may be left out.

        Raises:
            BadRequest: ``invalid_model_spec`` for an unknown field, a missing one, a wrong type or an impossible value;
                ``param`` is its dotted path.
        """
        spec: ModelSpec = _read(cls, _with_revision_apart(data), "")
        implied = implied_architecture(spec.source)
        if implied is not None and not spec.architecture:
            spec = dataclasses.replace(spec, architecture=implied)
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
            if key in {"source", "architecture", "arguments", "state_format", "preprocessing", "head"}
        }
        return hashlib.sha256(json.dumps(computing, sort_keys=True).encode()).hexdigest()


_ARCHITECTURE = re.compile(r"(timm|torchvision):[A-Za-z0-9_]+|transformers:[a-z0-9_-]+")
_PHOTO = re.compile(r"[a-z0-9_-]+\.jpg")
_ARGUMENT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_MOST_LEVELS = 12
_MOST_PIXELS = 4096
"""Of a side: a network's input beyond takes more memory than any device has, and none was trained on such."""
_FOREIGN_ARGUMENTS = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "weights"}
    | {"weights_backbone", "num_classes", "auto_map", "attn_implementation", "quantization_config"}
)
"""What a constructor would load further files or code by, and what a specification says elsewhere."""

_TYPE_NAMES = {str: "a text", int: "a whole number", float: "a number", type(None): "null"}


def _invalid(path: str, message: str, hint: str) -> BadRequest:
    where = path or "the specification"
    return BadRequest("invalid_model_spec", f"{where}: {message}", param=path or None, hint=hint)


def _with_revision_apart(data: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(data, Mapping) or "source" not in data:
        return data
    return {**data, "source": with_revision_apart(data["source"])}


def _read(kind: Any, value: Any, path: str) -> Any:
    """Return ``value`` as an instance of the annotation ``kind``; ``path`` is where it stands."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if type(value) is int and abs(value) >= 2**63:
        raise _invalid(path, "a whole number of more than 64 bits", "Give a smaller one.")
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
    if origin is dict:
        return _read_object(value, path)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise _invalid(path, f"{value!r} is not {_TYPE_NAMES[kind]}", f"Give {_TYPE_NAMES[kind]}.")
    return value


def _read_fields(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise _invalid(path, f"{value!r} is not an object", f"Give an object with the fields of {kind.__name__}.")
    fields = {one.name: one for one in dataclasses.fields(kind)}
    prefix = f"{path}." if path else ""
    for key in value:
        if key not in fields:
            raise _invalid(f"{prefix}{key}", "unknown field", "Known fields: " + ", ".join(fields))
    hints = typing.get_type_hints(kind)
    read = {}
    for name, one in fields.items():
        if name in value:
            read[name] = _read(hints[name], value[name], prefix + name)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise _invalid(f"{prefix}{name}", "missing", f"Add the field {name}.")
    return kind(**read)


def _read_object(value: Any, path: str) -> dict[str, Any]:
    """Return a copy of a JSON object of any content."""
    if not isinstance(value, Mapping):
        raise _invalid(path, f"{value!r} is not an object", "Give an object: {name: value}.")
    read: dict[str, Any] = _read_json(value, path, _MOST_LEVELS)
    return read


def _read_json(value: Any, path: str, levels: int) -> Any:
    if levels == 0:
        raise _invalid(path, "nested too deeply", f"Nest at most {_MOST_LEVELS} levels.")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise _invalid(path, f"the name {key!r} is not a text", "Put it in quotes.")
        return {key: _read_json(item, f"{path}.{key}", levels - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_read_json(item, f"{path}[{n}]", levels - 1) for n, item in enumerate(value)]
    if not (value is None or isinstance(value, (str, bool, int)) or (type(value) is float and math.isfinite(value))):
        raise _invalid(path, f"{value!r} is no value of JSON", "Give a text, a finite number, true, false or null.")
    return value


def _read_union(choices: tuple[Any, ...], value: Any, path: str) -> Any:
    """Read an optional value, a value or a list, or one of several dataclasses told apart by their ``type`` field."""
    if value is None and type(None) in choices:
        return None
    kinds = [choice for choice in choices if choice is not type(None)]
    lists = [kind for kind in kinds if typing.get_origin(kind) is tuple]
    if lists:
        kinds = lists if isinstance(value, (list, tuple)) else [kind for kind in kinds if kind not in lists]
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
    _require(is_model_name(spec.name), "name", f"{spec.name[:60]!r} is no name of a model", MODEL_NAME_HINT)
    check_source(spec.source, _require)
    _check_architecture(spec)
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


def _check_architecture(spec: ModelSpec) -> None:
    """Refuse a name that is none, one that the source contradicts, and arguments that would load something."""
    found_at_admission = isinstance(spec.source, (TimmSource, TransformersSource, PluginSource))
    if spec.architecture or not found_at_admission:
        named = _ARCHITECTURE.fullmatch(spec.architecture) is not None
        hint = "Write timm:NAME, torchvision:NAME or transformers:MODEL_TYPE."
        _require(named, "architecture", f"{spec.architecture!r} names no architecture", hint)
    implied = implied_architecture(spec.source)
    matches = implied is None or spec.architecture == implied
    _require(matches, "architecture", "not the source's", f"Leave it out, or write {implied}.")
    for kind, library in ((TimmSource, "timm:"), (TransformersSource, "transformers:")):
        other = spec.architecture and isinstance(spec.source, kind) and not spec.architecture.startswith(library)
        _require(not other, "architecture", "not of the source's library", f"Leave it out, or write {library}NAME.")
    for name in spec.arguments:
        allowed = _ARGUMENT.fullmatch(name) is not None and name not in _FOREIGN_ARGUMENTS
        hint = "State weights in source and classes in head; give only what shapes the network."
        _require(allowed, f"arguments.{name}", "no argument of an architecture", hint)


def _check_preprocessing(steps: Preprocessing) -> None:
    _require(min(steps.crop) >= 1, "preprocessing.crop", "below 1 pixel", "Give height and width in pixels.")
    scaled = (steps.resize, steps.resize) if isinstance(steps.resize, int) else steps.resize
    _require(
        scaled is None or (scaled[0] >= steps.crop[0] and scaled[1] >= steps.crop[1]),
        "preprocessing.resize",
        f"{steps.resize} is smaller than the crop",
        "Resize the shorter side to at least the crop, or give null to stretch the image to the crop.",
    )
    for field_name, sides in (("crop", steps.crop), ("resize", scaled or steps.crop)):
        hint = "Give the size that the network was trained for."
        _require(max(sides) <= _MOST_PIXELS, f"preprocessing.{field_name}", f"above {_MOST_PIXELS} pixels", hint)
    _require(min(steps.std) > 0, "preprocessing.std", "not above 0", "Give the standard deviation of each channel.")
    _require(steps.divide_by > 0, "preprocessing.divide_by", "not above 0", "255 maps 8-bit values to [0, 1].")


def _check_photo(photo: str, path: str) -> None:
    _require(_PHOTO.fullmatch(photo) is not None, path, f"{photo!r} is no photo", "Name a bundled photo: coffee.jpg.")


def _require(condition: bool, path: str, message: str, hint: str) -> None:
    if not condition:
        raise _invalid(path, message, hint)
