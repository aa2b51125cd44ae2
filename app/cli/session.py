"""What a command works with: a terminal and a client."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.cli.terminal import Terminal
    from app.client import Foretune


@contextmanager
def session(*, as_json: bool) -> Iterator[tuple["Terminal", "Foretune"]]:
    """Yield a terminal, and a client of the service that the environment names."""
    from app.cli.terminal import Terminal  # here, for rich and httpx would double the time of `foretune --help`
    from app.client import Foretune

    with Foretune() as client:
        yield Terminal(as_json=as_json), client
