"""What ``foretune models add`` and ``check`` take: a file of specifications, or one model by its public name."""

from pathlib import Path
from typing import Any

_FILE_HINT = "Write one specification, or `models:` and a list of them. JSON is YAML too."

SPEC_HELP = (
    "A YAML or JSON file of one or more models, or torchvision:NAME.WEIGHTS, timm:NAME.TAG, hf-hub:ORGANISATION/NAME "
    "for timm networks on the Hub, transformers:ORGANISATION/NAME; the last two also with @REVISION."
)


def read_specs(spec: str) -> list[dict[str, Any]]:
    """Return the specifications in a file, or the one that a name implies.

    Raises:
        Failure: ``file_not_readable``, ``invalid_manifest``.
    """
    named = _named(spec)
    return [named] if named else _in_file(spec)


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


def _in_file(spec: str) -> list[dict[str, Any]]:
    import yaml

    from app.client import Failure

    try:
        document = yaml.safe_load(Path(spec).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Failure("file_not_readable", f"{spec} cannot be read: {error}.", param=spec, hint=_FILE_HINT) from error
    except yaml.YAMLError as error:
        message = f"{spec} is neither YAML nor JSON: {error}"
        raise Failure("invalid_manifest", message, param=spec, hint=_FILE_HINT) from error
    entries = document["models"] if isinstance(document, dict) and set(document) == {"models"} else document
    entries = entries if isinstance(entries, list) else [entries]
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise Failure("invalid_manifest", f"{spec} holds no model specification.", param=spec, hint=_FILE_HINT)
    return entries
