"""What tags and names of zoos look like: short, lower-case, and safe in a URL and on a command line."""

import re
from typing import Any

from app.domain.errors import BadRequest

LABEL = r"[a-z0-9][a-z0-9._-]{0,49}"
"""What tags and names of zoos match, as a whole."""

MOST_TAGS = 20

_LABEL = re.compile(LABEL)


def read_tags(value: Any) -> tuple[str, ...]:
    """Return a model's tags, sorted, each once.

    Raises:
        BadRequest: ``invalid_tags``.
    """
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise _invalid("tags: not a list of texts", "tags")
    for position, tag in enumerate(value):
        if not _LABEL.fullmatch(tag):
            raise _invalid(f"tags[{position}]: {tag[:60]!r} is no tag", f"tags.{position}")
    tags = tuple(sorted(set(value)))
    if len(tags) > MOST_TAGS:
        raise _invalid(f"tags: {len(tags)}, more than {MOST_TAGS}", "tags")
    return tags


def _invalid(message: str, param: str) -> BadRequest:
    hint = f"Give up to {MOST_TAGS} tags of 1 to 50 characters: a-z, 0-9, '.', '_', '-', a letter or digit first."
    return BadRequest("invalid_tags", message, param=param, hint=hint)
