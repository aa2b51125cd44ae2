"""A line to the service that can be cut: a TCP relay on a port of its own."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


class BrokenLine:
    """Relays bytes, keeps what clients sent, and cuts connections: after some bytes, or when asked to."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.sent: list[bytearray] = []
        self.cut_after: int | None = None
        """Cut the next connection once its client has sent so many bytes."""
        self.cut_answer_after: int | None = None
        """Cut the next connection once the service has sent so many bytes."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """The URL of this end of the line."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def cut(self) -> None:
        """End every connection."""
        while self._sockets:
            end = self._sockets.pop()
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it has ended by itself
            finally:
                end.close()

    def close(self) -> None:
        """Take the line away."""
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._sockets += [near, far]
            sent = bytearray()
            self.sent.append(sent)
            limit, self.cut_after = self.cut_after, None
            answer_limit, self.cut_answer_after = self.cut_answer_after, None
            threading.Thread(target=self._pump, args=(near, far, sent, limit), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, bytearray(), answer_limit), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, seen: bytearray, limit: int | None) -> None:
        try:
            while chunk := source.recv(1 << 16):
                seen += chunk
                target.sendall(chunk)
                if limit is not None and len(seen) >= limit:
                    self.cut()
                    return
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return  # cut


@contextmanager
def broken_line(target: str) -> Iterator[BrokenLine]:
    """Yield a line to ``target``."""
    line = BrokenLine(target)
    try:
        yield line
    finally:
        line.close()
