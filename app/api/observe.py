"""What is seen of every request: an id, a log line, a counter and a duration; and a trace, where traces are on."""

import re
import time
import uuid

import structlog
from fastapi.telemetry import TelemetryConfig
from prometheus_client import Counter, Histogram
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.tracing import Tracing

log = structlog.get_logger()

_REQUESTS = Counter("foretune_requests_total", "Requests by route and status.", ["method", "route", "status"])
_SECONDS = Histogram("foretune_request_seconds", "Time until the answer was sent.", ["method", "route"])
_READS = ("GET", "HEAD")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
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
        made: str | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status, made
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                made = headers.get("Location")
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                seconds = time.perf_counter() - started
                route = getattr(scope.get("route"), "path", "unmatched")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                _REQUESTS.labels(method, route, str(status)).inc()
                _SECONDS.labels(method, route).observe(seconds)
                if status >= 400 or method not in _READS:
                    told = {"method": scope["method"], "path": scope["path"], "status": status}
                    if made is not None:
                        told["made"] = made
                    log.info("request", **told, ms=round(seconds * 1e3, 1))


def traced_requests(tracing: Tracing) -> TelemetryConfig:
    """Return what FastAPI is to trace: requests that change something. Clients that wait poll, and would drown them."""
    return {
        "tracer_provider": tracing.provider,
        "tracing": tracing.provider is not None,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
        "exclude": lambda scope: scope.get("method") in _READS,
    }
