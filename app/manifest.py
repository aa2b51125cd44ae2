"""The zoo manifest: a YAML text that lists model specifications."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.domain.errors import BadRequest
from app.domain.labels import read_tags
from app.domain.model_spec import ModelSpec
from app.yaml_document import read_yaml

PACKAGED = Path(__file__).resolve().parent.parent / "zoo" / "packaged.yaml"
"""The models whose weights ship inside Python wheels."""

PHOTOS = PACKAGED.parent / "photos"
"""The photos that known-photo checks are made with."""

_MOST_TOLD = 5


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
    entries: list[Entry] = []
    seen: set[str] = set()
    for row in _rows(read_yaml(text, called), called):
        entry = _read_entry(row)
        if entry.spec is not None and entry.spec.name in seen:
            twice = _invalid(f"{called} names {entry.name!r} twice", "Give every model its own name.")
            entry = Entry(entry.name, error=twice)
        if entry.name is not None:
            seen.add(entry.name)
        entries.append(entry)
    return entries


def _rows(document: Any, called: str) -> list[Any]:
    hint = "Start it with 'models:' and one '- name:' each, and nothing beside it."
    if not isinstance(document, dict) or not document:
        raise _invalid(f"{called} is not a list of models below the key 'models'", hint)
    if set(document) != {"models"}:
        others = _listed([repr(key) for key in document if key != "models"])
        raise _invalid(f"{called} has {others}{' beside' if 'models' in document else ', and not'} 'models'", hint)
    if not isinstance(document["models"], list):
        raise _invalid(f"{called} has something else than a list below 'models'", hint)
    return document["models"]


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


def _listed(keys: Sequence[str]) -> str:
    """Return the first few of some keys."""
    return ", ".join(key[:60] for key in keys[:_MOST_TOLD]) + (" and others" if len(keys) > _MOST_TOLD else "")


def _invalid(message: str, hint: str) -> BadRequest:
    return BadRequest("invalid_manifest", message, hint=hint)
