"""What ``foretune models add`` and ``check`` take: a file of specifications, one of weights, or a public name."""

import hashlib
import re
from pathlib import Path
from typing import Any

import typer

from app.cli.model_fields import StatedFields

SPEC_HELP = (
    "A YAML or JSON file of one or more models; torchvision:NAME.WEIGHTS, timm:NAME.TAG, hf-hub:ORGANISATION/NAME "
    "for timm networks on the Hub, transformers:ORGANISATION/NAME, the last two also with @REVISION; or a safetensors "
    "file, with --architecture, --license and --preprocessing."
)

_FILE_HINT = "Write one specification, or `models:` and a list of them. JSON is YAML too."
_PICKLES = frozenset({".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth", ".tar"})
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def read_specs(spec: str, stated: StatedFields | None = None) -> list[dict[str, Any]]:
    """Return the specifications in a file, the one that a name implies, or that of a safetensors file.

    Args:
        spec: as the user named it.
        stated: fields in place of those that one specification has, or has not.

    Raises:
        Failure: ``file_not_readable``, ``invalid_manifest``, ``unsafe_weights``.
        typer.BadParameter: what a safetensors file is was not stated, or fields of several models at once.
    """
    stated = stated or StatedFields()
    if is_weights_file(spec):
        return [_of_weights(Path(spec), stated)]
    named = _named(spec)
    entries = [named] if named else _in_file(spec)
    if not stated.are_stated():
        return entries
    if len(entries) > 1:
        raise typer.BadParameter(f"{spec} has {len(entries)} models: state their fields in the file.")
    return [entries[0] | stated.fields(str(entries[0].get("name", "")))]


def is_weights_file(spec: str) -> bool:
    """Tell whether a safetensors file is meant, and neither a name nor a specification."""
    return Path(spec).suffix == ".safetensors"


def _named(spec: str) -> dict[str, Any] | None:
    library, _, name = spec.partition(":")
    if library == "torchvision":
        return {"name": name.lower(), "source": {"type": "torchvision", "entry": name}}
    if library == "timm":
        # timm itself writes timm:hf-hub:ORGANISATION/NAME, too
        return _named(name) if name.startswith("hf-hub:") else {"name": name, "source": {"type": "timm", "id": name}}
    if library == "hf-hub":
        return {"name": _last_part(name), "source": {"type": "timm", "id": spec}}
    if library == "transformers":
        return {"name": _last_part(name), "source": {"type": "transformers", "id": name}}
    return None


def _last_part(repository: str) -> str:
    return repository.partition("@")[0].rpartition("/")[2].lower()


def _of_weights(file: Path, stated: StatedFields) -> dict[str, Any]:
    """Return the specification of a safetensors file on this machine."""
    from app.client import Failure

    try:
        with file.open("rb") as opened:
            stated.require(file.name)
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        hint = "Name a safetensors file that can be read."
        raise Failure("file_not_readable", f"{file} cannot be read: {error}.", param=str(file), hint=hint) from error
    source = {"type": "safetensors", "uri": file.resolve().as_uri(), "sha256": sha256}
    return {"source": source, **stated.fields(file.stem)}


def _in_file(spec: str) -> list[dict[str, Any]]:
    from app.client import Failure
    from app.domain.errors import BadRequest
    from app.yaml_document import read_yaml

    path = Path(spec)
    if path.suffix in _PICKLES:
        message = f"{spec} may be a pickle, which runs code when it is read; weights come as safetensors only."
        hint = 'Where you trust it: safetensors.torch.save_file(model.state_dict(), "model.safetensors").'
        raise Failure("unsafe_weights", message, param=spec, hint=hint)
    try:
        document = read_yaml(path.read_text(encoding="utf-8"), spec)
    except (OSError, UnicodeDecodeError) as error:
        message = f"{spec} cannot be read: {error}."
        raise Failure("file_not_readable", message, param=spec, hint=_meant(spec)) from error
    except BadRequest as error:
        raise Failure(error.code, error.message, param=spec, hint=error.hint) from error
    entries = document["models"] if isinstance(document, dict) and set(document) == {"models"} else document
    entries = entries if isinstance(entries, list) else [entries]
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise Failure("invalid_manifest", f"{spec} holds no model specification.", param=spec, hint=_FILE_HINT)
    return entries


def _meant(spec: str) -> str:
    """Return what was probably meant by a name that is no file."""
    path = Path(spec)
    if path.is_dir():
        weights = sorted(path.glob("*.safetensors"))
        file = weights[0] if weights else path / "FILE"
        return f"It is a folder. Name one file in it: a specification, or weights, such as {file}."
    if path.exists():
        return _FILE_HINT
    if _REPOSITORY.fullmatch(spec):
        return f"A repository on the Hub? Write transformers:{spec}, or hf-hub:{spec} if it is of timm."
    name, _, tag = spec.partition(".")
    if tag.isupper() and "/" not in spec:
        return f"Weights of torchvision? Write torchvision:{spec}."
    if "/" not in spec and path.suffix not in (".yaml", ".yml", ".json"):
        return f"Weights of a library? Write timm:{name}.{tag or 'TAG'} or torchvision:{name}.WEIGHTS."
    return _FILE_HINT
