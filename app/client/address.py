"""Where the service is and which key it takes: FORETUNE_URL and FORETUNE_KEY, else the local home."""

import ipaddress
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from app.client.errors import Failure
from app.config import Settings


@dataclass(frozen=True)
class Address:
    """A service and the key to talk to it with; without a key only the health checks answer."""

    url: str
    key: str | None = field(repr=False)
    is_local: bool


def find_service(url: str | None = None, key: str | None = None) -> Address:
    """Return the address given, or that of the environment, or that of the service of the local home.

    The local admin key is only ever sent to this machine.

    Raises:
        Failure: ``invalid_url``, ``invalid_key`` or ``invalid_setting``.
    """
    url = url or os.environ.get("FORETUNE_URL") or _local_url(read_settings())
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Failure("invalid_url", f"{url!r} is not the URL of a service.", hint="Write http://127.0.0.1:8000.")
    is_local = _is_loopback(parts.hostname)
    key = key or os.environ.get("FORETUNE_KEY") or (_local_key(read_settings()) if is_local else None)
    if key is not None and not (key.isascii() and key.isprintable()):
        raise Failure("invalid_key", "The API key holds characters that no key has.", hint="Copy it again.")
    return Address(url.rstrip("/"), key, is_local)


def read_settings(**flags: Any) -> Settings:
    """Return the FORETUNE_* settings; flags of the command line win over them.

    Raises:
        Failure: ``invalid_setting``.
    """
    try:
        return Settings(**flags)
    except ValidationError as error:
        first = error.errors()[0]
        name = "FORETUNE_" + "_".join(str(part) for part in first["loc"]).upper()
        raise Failure(
            "invalid_setting",
            f"{name} is {first['input']!r}: {first['msg']}.",
            param=name,
            hint="The README lists the settings.",
        ) from error


def _local_url(settings: Settings) -> str:
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (a server's address turned into a client's)
    host = everywhere.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _local_key(settings: Settings) -> str | None:
    try:
        return settings.admin_key_file.read_text().strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failure(
            "invalid_key",
            f"The admin key cannot be read: {error}.",
            param=str(settings.admin_key_file),
            hint="Set FORETUNE_KEY to a key of your own; an admin makes one with `foretune key create`.",
        ) from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
