"""What is seen of every request: an id, a log line, a counter and a duration."""

import re
import time
import uuid

import structlog
from prometheus_client import Counter, Histogram
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger()

_REQUESTS = Counter("foretune_requests_total", "Requests by route and status.", ["method", "route", "status"])
_SECONDS = Histogram("foretune_request_seconds", "Time until the answer was sent.", ["method", "route"])
_WELL_FORMED_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")


class Observe:
    """Gives each request an id, which the answer and every log line carry."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note what came of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = asked if _WELL_FORMED_ID.match(asked) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                seconds = time.perf_counter() - started
                route = getattr(scope.get("route"), "path", "unmatched")
                _REQUESTS.labels(scope["method"], route, str(status)).inc()
                _SECONDS.labels(scope["method"], route).observe(seconds)
                if status >= 400 or scope["method"] not in ("GET", "HEAD"):
                    log.info(
                        "request", method=scope["method"], path=scope["path"], status=status, ms=round(seconds * 1e3, 1)
                    )
