"""The zoo manifest: a YAML file that lists model specifications."""

from pathlib import Path
from typing import Any

import yaml

from app.domain.errors import BadRequest
from app.domain.model_spec import ModelSpec

PACKAGED = Path(__file__).resolve().parent.parent / "zoo" / "packaged.yaml"
"""The models whose weights ship inside Python wheels."""

PHOTOS = PACKAGED.parent / "photos"
"""The photos that known-photo checks are made with."""


def read_manifest(path: Path = PACKAGED) -> list[ModelSpec]:
    """Read every specification below the key ``models``, in the order of the file.

    Raises:
        BadRequest: ``invalid_manifest`` for a file that is not such a list or names a model twice;
            ``invalid_model_spec`` for a wrong entry, with ``param`` such as ``models[3].source.sha256``.
    """
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _invalid(path, "is not YAML", "Check the indentation and the quotes.") from error
    if not isinstance(document, dict) or set(document) != {"models"} or not isinstance(document["models"], list):
        raise _invalid(path, "is not a list of models", "Start the file with 'models:' and one '- name:' each.")
    specs = [_read_entry(entry, n) for n, entry in enumerate(document["models"])]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise _invalid(path, f"names {name!r} twice", "Give every model its own name.")
    return specs


def _read_entry(entry: Any, n: int) -> ModelSpec:
    try:
        return ModelSpec.from_dict(entry)
    except BadRequest as error:
        param = f"models[{n}].{error.param}" if error.param else f"models[{n}]"
        raise BadRequest(error.code, f"models[{n}]: {error.message}", param=param, hint=error.hint) from error


def _invalid(path: Path, message: str, hint: str) -> BadRequest:
    return BadRequest("invalid_manifest", f"{path.name} {message}", hint=hint)
