"""How often a key may ask, and an address may come with a wrong key: counted in Redis where there is one.

Every process of the API counts in the same Redis. While that does not answer, each counts by itself and lets its own
number pass: an outage makes limits looser and refuses nobody.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import NoReturn

import redis.asyncio
import structlog
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.errors import StorageError
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config import Settings
from app.domain.errors import TooManyRequests

log = structlog.get_logger()

_WINDOW_SECONDS = 60
_PATIENCE_SECONDS = 0.25
_AWAY_SECONDS = 5.0
_ANY = 0


@dataclass(frozen=True)
class Window:
    """What is left of a minute: ``count`` of ``limit`` requests came, and it ends in ``ends_in`` seconds."""

    limit: int
    count: int
    ends_in: int

    @property
    def headers(self) -> dict[str, str]:
        """The fields of draft-ietf-httpapi-ratelimit-headers: those of revision 10, and those of 6, which most know."""
        remaining = max(0, self.limit - self.count)
        return {
            "RateLimit-Policy": f'"key";q={self.limit};w={_WINDOW_SECONDS}',
            "RateLimit": f'"key";r={remaining};t={self.ends_in}',
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(remaining),
            "RateLimit-Reset": str(self.ends_in),
        }


class RateLimits:
    """Counts the requests of each key, and those of each address that came with a wrong key, minute by minute."""

    def __init__(self, settings: Settings) -> None:
        """Connect to Redis, if there is one, with the first request."""
        self._per_key = settings.requests_per_minute
        self._per_address = settings.failed_keys_per_minute
        self._own = MemoryStorage()
        self._shared: Storage | None = None
        self._connections: redis.asyncio.ConnectionPool | None = None
        self._away_until = 0.0
        if settings.broker_url.startswith(("redis://", "rediss://")):
            self._connections = redis.asyncio.ConnectionPool.from_url(settings.broker_url)
            self._shared = RedisStorage(
                settings.broker_url,
                wrap_exceptions=True,
                implementation="redispy",
                key_prefix="foretune-rate",
                connection_pool=self._connections,  # type: ignore[arg-type]  # as its documentation has it
            )

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._connections is not None:
            await self._connections.aclose()

    async def spend(self, request: Request, key_id: str) -> None:
        """Count a request of a key; the answer's headers will tell what is left.

        Raises:
            TooManyRequests: ``rate_limited``.
        """
        if self._per_key == _ANY:
            return
        window = await self._count(f"key/{key_id}", self._per_key)
        request.state.rate_limit = window
        if window.count > window.limit:
            _refuse(window, f"This API key has sent its {window.limit} requests of this minute.")

    async def count_failure(self, address: str) -> None:
        """Count a request with a key that is none."""
        if self._per_address != _ANY:
            await self._count(f"failures/{address}", self._per_address)

    async def refuse_guessing(self, address: str) -> None:
        """Refuse an address from which too many wrong keys came.

        Raises:
            TooManyRequests: ``rate_limited``.
        """
        if self._per_address == _ANY:
            return
        window = await self._count(f"failures/{address}", self._per_address, amount=0)
        if window.count >= window.limit:
            _refuse(window, f"{window.limit} requests with a wrong API key came from {address} within a minute.")

    async def _count(self, what: str, limit: int, amount: int = 1) -> Window:
        if self._shared is not None and time.monotonic() >= self._away_until:
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    return await _count_in(self._shared, what, limit, amount)
            except (StorageError, TimeoutError, OSError) as error:
                self._away_until = time.monotonic() + _AWAY_SECONDS
                log.warning("rate_limits.redis_away", error=str(error) or type(error).__name__)
        return await _count_in(self._own, what, limit, amount)


async def _count_in(storage: Storage, what: str, limit: int, amount: int) -> Window:
    count = await storage.incr(what, _WINDOW_SECONDS, amount) if amount else await storage.get(what)
    ends_in = await storage.get_expiry(what) - time.time()
    return Window(limit, count, min(_WINDOW_SECONDS, max(1, round(ends_in))))


def _refuse(window: Window, message: str) -> NoReturn:
    raise TooManyRequests(
        "rate_limited",
        message,
        hint="Wait as long as Retry-After says; `?wait=30` of a job holds one request instead of many.",
        retry_after=window.ends_in,
    )


class TellRateLimit:
    """Adds to every answer what is left of the caller's minute."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and complete the headers of its answer."""

        async def tell(message: Message) -> None:
            window = scope.get("state", {}).get("rate_limit")
            if window is not None and message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(window.headers)
            await send(message)

        await self._app(scope, receive, tell if scope["type"] == "http" else send)
