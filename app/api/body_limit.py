"""How large the body of a JSON request may be: it is read into memory before anything is known of the caller."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_JSON_BYTES = 1 << 20


class LimitJsonBodies:
    """Refuses larger bodies, announced or not; uploads have their own limit and are never held in memory."""

    def __init__(self, app: ASGIApp, *, upload_paths: frozenset[str]) -> None:
        """Wrap the application; bodies sent to ``upload_paths`` pass."""
        self._app = app
        self._upload_paths = upload_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting the bytes of its body as they are read."""
        if scope["type"] != "http" or scope["path"] in self._upload_paths:
            await self._app(scope, receive, send)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_JSON_BYTES:
                raise HTTPException(413, f"the body is larger than {MAX_JSON_BYTES} bytes")
            return message

        await self._app(scope, counted, send)
