"""Numbers in requests: JSON has neither NaN nor infinity, so they are refused before anything is sent."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from app.client.errors import Failure


def check_finite(asked: Mapping[str, Any]) -> None:
    """Look at every number of a request, also in its lists and objects.

    Raises:
        Failure: ``invalid_number``, ``param`` is the innermost field that has it.
    """
    for field, value in asked.items():
        _check(field, value)


def _check(field: str, value: Any) -> None:
    if isinstance(value, Mapping):
        check_finite(value)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            _check(field, item)
    elif isinstance(value, float) and not math.isfinite(value):
        hint = "Give a finite number, or leave it out."
        raise Failure("invalid_number", f"{field} is {value}.", param=field, hint=hint)
