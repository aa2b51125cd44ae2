"""Server-sent events: bytes in, events out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One event; ``id`` resumes the stream after it."""

    name: str
    data: str
    id: str | None


def read_events(chunks: Iterable[bytes]) -> Iterator[Event]:
    """Yield the events of a stream (the ``text/event-stream`` of the HTML standard); comments are skipped."""
    name, last_id, data = "message", None, list[str]()
    for line in _lines(chunks):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield Event(name, "\n".join(data), last_id)
            name, data = "message", []
        elif field == "event":
            name = value
        elif field == "id":
            last_id = value
        elif field == "data":
            data.append(value)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Split at line feeds only: a name in the data may hold U+2028, which ``str.splitlines`` would split at."""
    rest = b""
    for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            yield line.removesuffix(b"\r").decode()
