"""How large the body of a JSON request may be: it is read into memory before anything is known of the caller."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_JSON_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 8 << 20
"""More than twice what 2000 rows take that state everything."""


class BodyTooLarge(HTTPException):
    """A body has more bytes than its route reads; an ``HTTPException``, for FastAPI passes no other on from a body."""

    def __init__(self, most_bytes: int) -> None:
        """Say how many it reads."""
        super().__init__(413, f"the body is larger than {most_bytes} bytes")
        self.hint = "Send less at once, in several requests; images and weights have their own routes: see /docs."


class LimitJsonBodies:
    """Refuses larger bodies, announced or not; uploads have their own limit and are never held in memory."""

    def __init__(self, app: ASGIApp, *, upload_paths: frozenset[str], larger: Mapping[str, int]) -> None:
        """Wrap the application.

        Args:
            app: the application.
            upload_paths: bodies sent to these pass.
            larger: paths whose bodies may be larger than ``MAX_JSON_BYTES``, and how many bytes.
        """
        self._app = app
        self._upload_paths = upload_paths
        self._larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting the bytes of its body as they are read."""
        if scope["type"] != "http" or scope["path"] in self._upload_paths:
            await self._app(scope, receive, send)
            return
        size, most = 0, self._larger.get(scope["path"], MAX_JSON_BYTES)

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise BodyTooLarge(most)
            return message

        await self._app(scope, counted, send)
