"""The requests of the Hub's client, which end when nobody waits for their answer any more.

The client makes them all by one session, tries again by itself, and hands blocks on by the megabyte. Its session is
therefore asked to look before each request, and at whatever arrives.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import httpx2
from huggingface_hub import get_session

from workers.zoo.transfer import Transfer

_TRANSFER: ContextVar[Transfer | None] = ContextVar("transfer", default=None)


@contextmanager
def requests_of(transfer: Transfer) -> Iterator[None]:
    """Have the client's requests of this thread raise ``TransferGivenUp`` once the transfer is given up."""
    session = get_session()
    hooks = session.event_hooks
    if _go_on not in hooks["request"]:
        session.event_hooks = {"request": [*hooks["request"], _go_on], "response": [*hooks["response"], _watch]}
    token = _TRANSFER.set(transfer)
    try:
        yield
    finally:
        _TRANSFER.reset(token)


def pause(seconds: float) -> None:
    """Wait between two requests; what ``requests_of`` gave up ends the wait.

    Raises:
        TransferGivenUp: nobody waits for the answer any more.
    """
    transfer = _TRANSFER.get()
    if transfer is None:
        time.sleep(seconds)
    else:
        transfer.pause(seconds)


def _go_on(_: httpx2.Request) -> None:
    transfer = _TRANSFER.get()
    if transfer is not None:
        transfer.go_on()


def _watch(response: httpx2.Response) -> None:
    transfer = _TRANSFER.get()
    if transfer is not None and isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = _Watched(response.stream, transfer)


class _Watched(httpx2.SyncByteStream):
    """A body that ends when it is not wanted any more."""

    def __init__(self, stream: httpx2.SyncByteStream, transfer: Transfer) -> None:
        self._stream, self._transfer = stream, transfer

    def __iter__(self) -> Iterator[bytes]:
        for block in self._stream:
            self._transfer.go_on()
            yield block

    def close(self) -> None:
        self._stream.close()
