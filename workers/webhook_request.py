"""Sending one signed message to an address that a user chose, and to no other.

The host is resolved once, all of its addresses are judged, and the connection goes to one that was judged: a name that
means something else a moment later leads nowhere. Redirects are answers like any other, proxies of the environment are
not asked, and one deadline holds for all of it, so that who answers byte by byte gains nothing.
"""

import socket
import ssl
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from app.domain.errors import DeliveryFailed
from app.domain.public_address import is_public

_MOST_ANSWER_BYTES = 16 << 10
_MOST_TOLD = 500


@dataclass(frozen=True)
class Answer:
    """What a receiver said; ``text`` is the beginning of it, fit for every database and terminal."""

    status: int
    text: str
    retry_after: float | None


class Sender:
    """Sends messages; safe to share between threads."""

    def __init__(self, *, private_hosts: Collection[str], timeout_seconds: float) -> None:
        """Allow hosts of this name, and no other, to be in the service's own network."""
        self._private_hosts = frozenset(private_hosts)
        self._timeout = timeout_seconds
        self._tls = httpx.create_ssl_context()

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a message and return the answer, whatever its status.

        Raises:
            DeliveryFailed: ``address_not_public``, ``receiver_unreachable`` or ``receiver_too_slow``.
        """
        deadline = time.monotonic() + self._timeout
        network = _CheckedNetwork(self._private_hosts, deadline)
        told = [("Content-Type", "application/json"), ("User-Agent", "Foretune"), ("Connection", "close")]
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout)
        try:
            with (
                httpcore.ConnectionPool(ssl_context=self._tls, network_backend=network, http2=False) as pool,
                pool.stream(
                    "POST", url, headers=[*told, *headers.items()], content=body, extensions={"timeout": timeouts}
                ) as response,
            ):
                return _read(response)
        except httpcore.TimeoutException as error:
            message = f"The receiver did not answer within {self._timeout:g} seconds."
            raise DeliveryFailed("receiver_too_slow", message) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, ssl.SSLError) as error:
            reason = str(error) or type(error).__name__
            message = f"The receiver cannot be reached: {_printable(reason)}"
            raise DeliveryFailed("receiver_unreachable", message) from error


def _read(response: httpcore.Response) -> Answer:
    content = b""
    for part in response.iter_stream():
        content += part
        if len(content) >= _MOST_ANSWER_BYTES:
            break
    wait = next((value for name, value in response.headers if name.lower() == b"retry-after"), b"")
    return Answer(
        status=response.status,
        text=_printable(content[:_MOST_ANSWER_BYTES].decode(errors="replace")),
        retry_after=float(wait) if wait.isdigit() and len(wait) < 10 else None,
    )


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:_MOST_TOLD]).strip()


class _CheckedNetwork(httpcore.NetworkBackend):
    """Connects to what it has judged, until a deadline."""

    def __init__(self, private_hosts: Collection[str], deadline: float) -> None:
        self._private_hosts = private_hosts
        self._deadline = deadline
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        refused: Exception | None = None
        for address in self._judged(host, port):
            try:
                # An address is resolved to itself: nothing is looked up again.
                stream = self._network.connect_tcp(
                    address, port, _remaining(self._deadline, httpcore.ConnectTimeout), local_address, socket_options
                )
                return _UntilDeadline(stream, self._deadline)
            except httpcore.ConnectError as error:
                refused = error
        raise refused or httpcore.ConnectError(f"{host} has no address")

    def _judged(self, host: str, port: int) -> list[str]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} is unknown: {error}") from error
        addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
        if host not in self._private_hosts and not all(is_public(address) for address in addresses):
            raise DeliveryFailed("address_not_public", f"{host} leads to an address that is not public.")
        return addresses


class _UntilDeadline(httpcore.NetworkStream):
    """A stream that times out at a deadline rather than after a pause."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _remaining(self._deadline, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _remaining(self._deadline, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _remaining(self._deadline, httpcore.ConnectTimeout)
        return _UntilDeadline(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _remaining(deadline: float, too_late: type[httpcore.TimeoutException]) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise too_late("the deadline has passed")
    return left
