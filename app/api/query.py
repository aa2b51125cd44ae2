"""What a request may ask in its query: what its route would not read is refused, so that no typo is lost."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from app.domain.errors import BadRequest


class KnownParameters:
    """A dependency of all routes that demand no more than what they declare; what that is, is gathered once."""

    def __init__(self) -> None:
        """Know no route yet."""
        self._taken: dict[object, dict[str, bool]] = {}

    async def __call__(self, request: Request) -> None:
        """Refuse a request with a query parameter that its route does not declare, or declares to stand once.

        Raises:
            BadRequest: ``unknown_parameter``, ``repeated_parameter``.
        """
        if not request.scope["query_string"]:
            return
        taken = self._of(request)
        given = [name for name, _ in request.query_params.multi_items()]
        for name in given:
            if name not in taken:
                raise _unknown(name, sorted(taken))
        for name in given:
            if not taken[name] and given.count(name) > 1:
                raise _repeated(name)

    def _of(self, request: Request) -> dict[str, bool]:
        """Return the names that a route declares, and whether each may stand more than once."""
        route = request.scope["route"]
        assert isinstance(route, APIRoute)
        taken = self._taken.get(route.endpoint)
        if taken is None:
            taken = self._taken[route.endpoint] = dict(_declared(route.dependant))
        return taken


def _declared(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    for field in dependant.query_params:
        yield field.alias, _is_list(field.field_info.annotation)
    for inner in dependant.dependencies:
        yield from _declared(inner)


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(map(_is_list, get_args(annotation)))


def _repeated(name: str) -> BadRequest:
    return BadRequest(
        "repeated_parameter",
        f"The query has the parameter {name!r} more than once, and this route takes it once.",
        param=name,
        hint="Give it once, or send a request for each of its values.",
    )


def _unknown(name: str, known: list[str]) -> BadRequest:
    nearest = get_close_matches(name, known, n=1)
    meant = f"Did you mean {nearest[0]}? " if nearest else ""
    takes = f"The route takes {', '.join(known)}." if known else "The route takes no parameters."
    return BadRequest(
        "unknown_parameter",
        f"The query has a parameter {name!r} that this route does not know.",
        param=name,
        hint=meant + takes,
    )
