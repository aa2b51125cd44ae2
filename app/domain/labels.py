"""What tags and the names of zoos and models look like: safe in a URL, on a command line and in a table."""

import re
from typing import Any

from app.domain.errors import BadRequest

LABEL = r"[a-z0-9][a-z0-9._-]{0,49}"
"""What tags and names of zoos match, as a whole."""

LABEL_HINT = "Use 1 to 50 characters: a-z, 0-9, '.', '_', '-', a letter or digit first."

MODEL_NAME_HINT = (
    "Use 1 to 200 ASCII letters, digits and . _ + - / with a letter, a digit or _ first and after each /, "
    "and nothing that begins like an id, mdl_."
)

MOST_TAGS = 20

_LABEL = re.compile(LABEL)
_LONGEST_MODEL_NAME = 200
_MODEL_NAME = re.compile(r"(?!mdl_)[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
"""The names of libraries and of repositories on the Hub, and nothing that commands would take for an id."""


def is_label(text: str) -> bool:
    """Tell whether a text may be a tag, or the name of a zoo."""
    return _LABEL.fullmatch(text) is not None


def is_model_name(text: str) -> bool:
    """Tell whether a text may be the name of a model; ``MODEL_NAME_HINT`` says what may."""
    return len(text) <= _LONGEST_MODEL_NAME and _MODEL_NAME.fullmatch(text) is not None


def read_tags(value: Any, field: str = "tags") -> tuple[str, ...]:
    """Return a model's tags, sorted, each once.

    Args:
        value: as it was sent.
        field: where it stood.

    Raises:
        BadRequest: ``invalid_tags``.
    """
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise _invalid(f"{field}: not a list of texts", field)
    for position, tag in enumerate(value):
        if not is_label(tag):
            raise _invalid(f"{field}[{position}]: {tag[:60]!r} is no tag", f"{field}.{position}")
    tags = tuple(sorted(set(value)))
    if len(tags) > MOST_TAGS:
        raise _invalid(f"{field}: {len(tags)} in all, more than {MOST_TAGS}", field)
    return tags


def _invalid(message: str, param: str) -> BadRequest:
    hint = f"Give up to {MOST_TAGS} tags of 1 to 50 characters: a-z, 0-9, '.', '_', '-', a letter or digit first."
    return BadRequest("invalid_tags", message, param=param, hint=hint)
