"""What a request may ask in its query: a parameter that the route does not know is refused, so no typo is lost."""

from collections.abc import Iterator
from difflib import get_close_matches

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from app.domain.errors import BadRequest


class KnownParameters:
    """A dependency of all routes that demand no more than what they declare; each route's names are gathered once."""

    def __init__(self) -> None:
        """Know no route yet."""
        self._names: dict[object, frozenset[str]] = {}

    async def __call__(self, request: Request) -> None:
        """Refuse a request with a query parameter that its route does not declare.

        Raises:
            BadRequest: ``unknown_parameter``.
        """
        if not request.scope["query_string"]:
            return
        unknown = request.query_params.keys() - self._of(request)
        if unknown:
            name = next(name for name in request.query_params if name in unknown)
            raise _unknown(name, sorted(self._of(request)))

    def _of(self, request: Request) -> frozenset[str]:
        route = request.scope["route"]
        assert isinstance(route, APIRoute)
        names = self._names.get(route.endpoint)
        if names is None:
            names = self._names[route.endpoint] = frozenset(_declared(route.dependant))
        return names


def _declared(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        yield field.alias
    for inner in dependant.dependencies:
        yield from _declared(inner)


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
