"""Requests of users, who send each again, to whichever process answers, until it was answered."""

import random
import threading
import time
import uuid
from collections import Counter
from contextlib import suppress
from typing import Any

import httpx

from tests.fixtures.stack import Stack

_AGAIN = frozenset({429, 502, 503, 504})
_PAUSE_SECONDS = 0.3


class GivenUp(Exception):
    """No API process has answered for longer than any fault takes."""


class Answers:
    """Counts what was answered, over all users.

    Attributes:
        statuses: answers by their status; 0 is a connection that failed.
        errors: each answer that no user should get: 5xx other than 503 with a problem that says so.
    """

    def __init__(self) -> None:
        """Nothing was answered yet."""
        self.statuses: Counter[int] = Counter()
        self.errors: list[str] = []
        self._lock = threading.Lock()

    def note(self, response: httpx.Response | None) -> None:
        """Count one answer, or that there was none."""
        with self._lock:
            self.statuses[0 if response is None else response.status_code] += 1
            if response is not None and response.status_code >= 500 and not _says_unavailable(response):
                request = response.request
                self.errors.append(
                    f"{request.method} {request.url}: {response.status_code} {response.text[:300]} "
                    f"(request {response.headers.get('x-request-id')})"
                )


class Requests:
    """One user's way to the service: any of its API processes."""

    def __init__(self, stack: Stack, answers: Answers, chance: random.Random, *, patience_seconds: float) -> None:
        """Open connections on first use."""
        self._clients = stack.clients(timeout=40)
        self._answers = answers
        self._chance = chance
        self._patience = patience_seconds

    def close(self) -> None:
        """Close every connection."""
        for client in self._clients:
            client.close()

    def get(self, path: str, **params: Any) -> httpx.Response:
        """Read something."""
        return self.send("GET", path, params=params)

    def post(self, path: str, **body: Any) -> httpx.Response:
        """Ask for something once, however often that is sent."""
        return self.send("POST", path, headers={"Idempotency-Key": uuid.uuid4().hex}, **body)

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Send a request until it is answered, each time to a process chosen at random.

        Raises:
            GivenUp: it was not answered in time.
        """
        until = time.monotonic() + self._patience
        while time.monotonic() < until:
            response = None
            with suppress(httpx.TransportError):  # the process was killed, or is not there yet
                response = self._chance.choice(self._clients).request(method, path, **more)
            self._answers.note(response)
            if response is not None and response.status_code < 500 and response.status_code not in _AGAIN:
                return response
            time.sleep(_PAUSE_SECONDS)
        raise GivenUp(f"{method} {path} was not answered in {self._patience:g} s")


def _says_unavailable(response: httpx.Response) -> bool:
    kind = response.headers.get("content-type", "").partition(";")[0]
    return response.status_code == 503 and kind == "application/problem+json"
