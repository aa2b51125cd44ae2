"""HTTP with the service: sends requests, repeats those that may be repeated, turns problems into errors."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
)

from app.client.address import Address
from app.client.errors import ApiError, Failure, ServiceUnreachable
from app.client.numbers import check_finite

Answer = TypeVar("Answer", bound=BaseModel)

_BRIEF = stop_after_attempt(4)  # a service that is not running is told within two seconds
_PATIENT = stop_after_delay(60)  # who waits for a job also waits for a restart of the service
_BACK_OFF = wait_exponential(multiplier=0.2, max=2)
_LONGEST_RETRY_AFTER = 30.0
_AWAY = frozenset({502, 503, 504})
_TOO_MANY = 429
_REPEATABLE = frozenset({"GET", "PATCH", "DELETE"})


class Connection:
    """One service and one key."""

    def __init__(self, address: Address, *, timeout: float) -> None:
        """Connect on the first request; ``timeout`` is in seconds, for each read and write."""
        self.url = address.url
        self._key = address.key
        self._http = httpx.Client(
            base_url=address.url,
            headers={"Accept": "application/json"},
            timeout=httpx.Timeout(timeout, connect=5),
            trust_env=not address.is_local,  # a proxy of the environment cannot reach this machine's own service
        )

    def close(self) -> None:
        """Close pooled connections."""
        self._http.close()

    def get(self, path: str, kind: type[Answer], **params: Any) -> Answer:
        """GET an object."""
        return self.read(self.send("GET", path, params=params), kind)

    def read(self, response: httpx.Response, kind: type[Answer]) -> Answer:
        """Return the object that a response holds.

        Raises:
            Failure: ``unexpected_answer``, when it is not what Foretune answers.
        """
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise self._unexpected(response) from error

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
        patient: bool = False,
        accept: frozenset[int] = frozenset(),
        **body: Any,
    ) -> httpx.Response:
        """Send a request and return its answer.

        A request that never left is sent again, and one that came too soon after others; one that may have been carried
        out only when it is repeatable.

        Args:
            method: HTTP method.
            path: below the service's URL.
            params: query parameters; None values are left out.
            headers: more headers.
            repeatable: whether doing it twice is the same as once; by default for GET, PATCH and DELETE.
            patient: go on trying for a minute instead of two seconds.
            accept: statuses that are answers although they are errors.
            body: ``json``, or ``files`` and ``data``, as for httpx.

        Raises:
            Failure: ``invalid_number``: NaN or infinity, which JSON does not have.
            ApiError: the service answered with a problem.
            ServiceUnreachable: it did not answer.
        """
        check_finite(params or {})
        check_finite(body.get("json") or {})
        is_repeatable = method in _REPEATABLE if repeatable is None else repeatable
        retrying = Retrying(
            retry=retry_if_exception(lambda error: _is_worth_repeating(error, repeatable=is_repeatable)),
            stop=_PATIENT if patient else _BRIEF,
            wait=_pause,
            reraise=True,
        )
        response: httpx.Response | None = None
        for attempt in retrying:
            with attempt:
                again = attempt.retry_state.attempt_number > 1
                gone = frozenset({404}) if again and method == "DELETE" else frozenset()
                response = self._send_once(method, path, accept | gone, params=params, headers=headers, **body)
        assert response is not None
        return response

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[Iterator[bytes]]:
        """GET a stream of bytes, once.

        Raises:
            ApiError: the service answered with a problem.
            ServiceUnreachable: it did not answer, or the stream broke off.
        """
        try:
            with self._http.stream("GET", path, headers=self._headers(path, headers)) as response:
                if response.is_error:
                    response.read()
                    raise self._problem(response)
                yield response.iter_bytes()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _send_once(
        self, method: str, path: str, accept: frozenset[int], *, params: Any, headers: Any, **body: Any
    ) -> httpx.Response:
        given = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            response = self._http.request(
                method, path, params=given or None, headers=self._headers(path, headers), **body
            )
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if response.status_code >= 300 and response.status_code != 304 and response.status_code not in accept:
            raise self._problem(response)
        return response

    def _headers(self, path: str, more: Mapping[str, str] | None) -> dict[str, str]:
        headers = dict(more or {})
        if path.startswith("/v1/"):
            if self._key is None:
                raise Failure(
                    "no_api_key",
                    f"There is no API key for {self.url}.",
                    hint="Set FORETUNE_KEY. The key of a service on this machine is found in FORETUNE_HOME by itself, "
                    "once `foretune serve` was started there.",
                )
            headers["Authorization"] = f"Bearer {self._key}"
        return headers

    def _problem(self, response: httpx.Response) -> Failure:
        if response.headers.get("Content-Type", "").partition(";")[0] != "application/problem+json":
            return self._unexpected(response)
        problem = response.json()
        wait = response.headers.get("Retry-After", "")
        return ApiError(
            response.status_code,
            problem.get("code", "unexpected_answer"),
            problem.get("detail") or problem.get("title", "The service gave no reason."),
            param=problem.get("param"),
            hint=problem.get("hint"),
            retry_after=float(wait) if wait.isdigit() else None,
        )

    def _unexpected(self, response: httpx.Response) -> ApiError:
        kind = response.headers.get("Content-Type", "no content")
        return ApiError(
            response.status_code,
            "unexpected_answer",
            f"{response.request.url} answered {response.status_code} with {kind}, which Foretune does not.",
            hint="Check FORETUNE_URL: another program, or a proxy, answers there.",
        )

    def _unreachable(self, error: httpx.TransportError) -> ServiceUnreachable:
        reason = str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ServiceUnreachable(f"Nothing answers at {self.url} ({reason}).", was_sent=False)
        return ServiceUnreachable(f"The service at {self.url} broke off ({reason}).", was_sent=True)


def may_pass(error: BaseException) -> bool:
    """Tell whether a failure may be over in a moment: the service, or a proxy before it, is away."""
    return isinstance(error, ServiceUnreachable) or (isinstance(error, ApiError) and error.status in _AWAY)


def _is_worth_repeating(error: BaseException, *, repeatable: bool) -> bool:
    never_arrived = isinstance(error, ServiceUnreachable) and not error.was_sent
    not_carried_out = isinstance(error, ApiError) and error.status == _TOO_MANY
    return never_arrived or not_carried_out or (repeatable and may_pass(error))


def _pause(state: RetryCallState) -> float:
    """Return the seconds to the next attempt: what the service asked for, else a growing pause."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, ApiError) and error.retry_after is not None:
        return min(error.retry_after, _LONGEST_RETRY_AFTER)
    return _BACK_OFF(state)


def segment(text: str) -> str:
    """Return an id as one segment of a path: an id that is none must not lead to another route."""
    return "%2E" * len(text) if set(text) == {"."} else quote(text, safe="")
