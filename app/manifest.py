"""The zoo manifest: a YAML text that lists model specifications."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from app.domain.errors import BadRequest
from app.domain.labels import read_tags
from app.domain.model_spec import ModelSpec

PACKAGED = Path(__file__).resolve().parent.parent / "zoo" / "packaged.yaml"
"""The models whose weights ship inside Python wheels."""

PHOTOS = PACKAGED.parent / "photos"
"""The photos that known-photo checks are made with."""


_MOST_LEVELS = 20
_MOST_NODES = 500_000
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Entry:
    """One row of a manifest: a specification, or why it is none.

    Attributes:
        name: as it stands there; None where there is none.
        spec: None where ``error`` says what is wrong.
        tags: None where the row states none; they are no part of the specification.
        error: ``param`` names the field within the row.
    """

    name: str | None
    spec: ModelSpec | None = None
    tags: tuple[str, ...] | None = None
    error: BadRequest | None = None


def read_manifest(path: Path = PACKAGED) -> list[ModelSpec]:
    """Read every specification below the key ``models``, in the order of the file.

    Raises:
        BadRequest: as ``read_rows`` says.
    """
    return [spec for spec, _ in read_rows(path)]


def read_rows(path: Path = PACKAGED) -> list[tuple[ModelSpec, tuple[str, ...] | None]]:
    """Read every specification below the key ``models`` with its tags, in the order of the file.

    Raises:
        BadRequest: ``invalid_manifest`` for a file that is not such a list or names a model twice;
            ``invalid_model_spec`` or ``invalid_tags`` for a wrong entry, with ``param`` such as
            ``models[3].source.sha256``.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(f"{path.name} is not a text", "Save it as UTF-8.") from error
    rows = []
    for number, entry in enumerate(parse_manifest(text, path.name)):
        if entry.error is not None:
            param = f"models[{number}].{entry.error.param}" if entry.error.param else f"models[{number}]"
            message = f"models[{number}]: {entry.error.message}"
            raise BadRequest(entry.error.code, message, param=param, hint=entry.error.hint) from entry.error
        assert entry.spec is not None
        rows.append((entry.spec, entry.tags))
    return rows


def parse_manifest(text: str, called: str = "the manifest") -> list[Entry]:
    """Return the rows below the key ``models``, right or wrong; a name that stood before is wrong.

    Args:
        text: YAML, of which JSON is a part.
        called: the manifest's name in messages.

    Raises:
        BadRequest: ``invalid_manifest``: the whole is not such a list.
    """
    try:
        _refuse_bombs(text, called)
        document: Any = yaml.load(text, _LOADER)  # noqa: S506 - both loaders are safe ones
    except (yaml.YAMLError, ValueError) as error:
        raise _invalid(f"{called} is not YAML{_place(error)}", "Check the indentation and the quotes.") from error
    if not isinstance(document, dict) or set(document) != {"models"} or not isinstance(document["models"], list):
        raise _invalid(f"{called} is not a list of models", "Start it with 'models:' and one '- name:' each.")
    entries: list[Entry] = []
    seen: set[str] = set()
    for row in document["models"]:
        entry = _read_entry(row)
        if entry.spec is not None and entry.spec.name in seen:
            twice = _invalid(f"{called} names {entry.name!r} twice", "Give every model its own name.")
            entry = Entry(entry.name, error=twice)
        if entry.name is not None:
            seen.add(entry.name)
        entries.append(entry)
    return entries


def _refuse_bombs(text: str, called: str) -> None:
    """Refuse what takes far more memory or time than its length: anchors of anchors, and brackets within brackets.

    Every node is counted as often as ``*name`` repeats it.
    """
    nodes = [_Node()]
    known: dict[str, _Node] = {}
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            nodes.append(_Node(event.anchor))
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in known:
                raise _invalid(f"{called} refers to *{event.anchor}, which does not stand before", "Write it out.")
            nodes[-1].hold(known[event.anchor])
        elif isinstance(event, yaml.ScalarEvent):
            nodes[-1].hold(_Node())
            if event.anchor:
                known[event.anchor] = _Node()
        elif isinstance(event, yaml.CollectionEndEvent):
            ended = nodes.pop()
            if ended.anchor:
                known[ended.anchor] = ended
            nodes[-1].hold(ended)
        if len(nodes) + nodes[-1].levels > _MOST_LEVELS:
            raise _invalid(f"{called} is nested too deeply", "A specification has a few levels only.")
        if nodes[-1].size > _MOST_NODES:
            raise _invalid(f"{called} says more than {_MOST_NODES} things", "Split it.")


@dataclass
class _Node:
    anchor: str | None = None
    size: int = 1
    levels: int = 1

    def hold(self, other: "_Node") -> None:
        self.size += other.size
        self.levels = max(self.levels, other.levels + 1)


def _read_entry(row: Any) -> Entry:
    name = row.get("name") if isinstance(row, dict) else None
    name = name if isinstance(name, str) else None
    try:
        spec, tags = read_row(row)
    except BadRequest as error:
        return Entry(name, error=error)
    return Entry(name, spec, tags)


def read_row(row: Any) -> tuple[ModelSpec, tuple[str, ...] | None]:
    """Return the specification that a row is, and the tags beside it; None where it states none.

    Raises:
        BadRequest: ``invalid_model_spec``, ``invalid_tags``.
    """
    if not isinstance(row, dict) or "tags" not in row:
        return ModelSpec.from_dict(row), None
    stated = {field: value for field, value in row.items() if field != "tags"}
    return ModelSpec.from_dict(stated), read_tags(row["tags"])


def _place(error: Exception) -> str:
    """Return where and what is wrong, as far as the parser tells."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return (f", line {mark.line + 1}" if mark else "") + (f": {problem}" if problem else "")


def _invalid(message: str, hint: str) -> BadRequest:
    return BadRequest("invalid_manifest", message, hint=hint)
