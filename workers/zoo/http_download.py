"""Files of a web server: asked for again while it is only for now that it does not serve them."""

from contextlib import closing
from pathlib import Path

import httpx
import structlog
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from app.domain.errors import ModelRejected
from app.domain.model_sources import without_queries
from workers.zoo.asking_again import asked_again, is_passing_status
from workers.zoo.transfer import Transfer

log = structlog.get_logger()

TIMEOUT = httpx.Timeout(30.0, connect=10.0)

BODIES = 3
"""How often a file is begun that breaks off on its way."""

_UPLOAD_IT = "upload the file: foretune models upload FILE."


def download_http(uri: str, path: Path, transfer: Transfer) -> None:
    """Write what a web server holds to ``path``, in constant memory.

    Raises:
        ModelRejected: ``weights_unavailable``, ``weights_unauthorized``, ``source_unavailable`` where it did not answer
            for as long as it is asked again, ``no_room_on_disk``.
        TransferGivenUp: the file is not wanted any more.
        OSError: the disk is full.
    """
    tries = Retrying(retry=retry_if_exception_type(httpx.TransportError), stop=stop_after_attempt(BODIES), reraise=True)
    with httpx.Client(follow_redirects=True, timeout=TIMEOUT) as client:
        try:
            tries(lambda: _receive(client, uri, path, transfer))
        except httpx.HTTPError as error:
            raise _told(uri, error) from error


def _receive(client: httpx.Client, uri: str, path: Path, transfer: Transfer) -> None:
    try:
        response = asked_again(
            lambda: _open(client, uri), is_passing=_is_passing, retry_after=_retry_after, pause=transfer.pause
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _told(uri, error) from error
    with closing(response):
        # Blocks as they arrive: one of a fixed size would be waited for, however slowly it drips in.
        transfer.write(response.iter_bytes(), path, _stated_size(response))


def _open(client: httpx.Client, uri: str) -> httpx.Response:
    """Return an answer whose body has yet to come."""
    response = client.send(client.build_request("GET", uri), stream=True)
    try:
        return response.raise_for_status()
    except httpx.HTTPStatusError:
        response.close()
        raise


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return is_passing_status(error.response.status_code)
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)


def _retry_after(error: BaseException) -> str | None:
    return error.response.headers.get("retry-after") if isinstance(error, httpx.HTTPStatusError) else None


def _told(uri: str, error: Exception) -> ModelRejected:
    """Say in own words why a file could not be had; what a server or the library says of it goes to the log."""
    called = without_queries(uri)
    log.warning("download.failed", uri=called, error=without_queries(f"{type(error).__name__}: {error}"))
    status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
    code, hint = "weights_unavailable", "Check the address."
    if status is not None:
        reason = f"the server answers with status {status}"
    elif isinstance(error, httpx.TimeoutException):
        reason = "the server did not answer in time"
    elif isinstance(error, httpx.ConnectError):
        reason = "no connection to the server could be made"
    elif isinstance(error, httpx.TooManyRedirects):
        reason = "the server redirects without end"
    elif isinstance(error, httpx.TransportError):
        reason = "the connection broke off"
    else:
        reason = "this is no address that can be read, or no answer of a web server"
    if status in {401, 403}:
        code, hint = "weights_unauthorized", f"Renew the address if it was signed for a time, or {_UPLOAD_IT}"
    elif _is_passing(error):
        code = "source_unavailable"
        hint = f"Check the host's name, and that the worker can reach it; try again later, or {_UPLOAD_IT}"
    return ModelRejected(code, f"{called} could not be read: {reason}", param="source", hint=hint)


def _stated_size(response: httpx.Response) -> int | None:
    stated = response.headers.get("content-length", "")
    return int(stated) if stated.isdecimal() else None
