"""Which URLs a webhook may have."""

import re
import socket
from collections.abc import Collection
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from app.domain.errors import BadRequest
from app.domain.public_address import is_public

LONGEST_URL = 2000
_PARAM = "url"
_VISIBLE = re.compile(r"[!-~]+")


def read_url(url: str, *, private_hosts: Collection[str] = ()) -> str:
    """Return the URL of a webhook, if events may be sent there.

    A host that is a name is judged whenever something is sent, by the addresses that it has then.

    Args:
        url: as the user gave it.
        private_hosts: may be in the service's own network, and be spoken to without TLS.

    Raises:
        BadRequest: ``invalid_webhook_url`` or ``address_not_public``.
    """
    if len(url) > LONGEST_URL or not _VISIBLE.fullmatch(url):
        raise _invalid(f"it is not {LONGEST_URL} printable ASCII characters at most")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _invalid(str(error)) from error
    if not host or port == 0:
        raise _invalid("it names no host" if not host else "there is no port 0")
    if "@" in parts.netloc or parts.fragment:
        raise _invalid("it has a user name, a password or a fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in private_hosts):
        raise _invalid("it does not begin with https://")
    address = _numeric(host)
    if address is not None and host not in private_hosts and not is_public(address):
        raise BadRequest(
            "address_not_public",
            f"{host} is an address of a private network, of this machine, or of no machine at all.",
            param=_PARAM,
            hint="Give the receiver an address that the internet reaches, or let the service's operator allow this "
            "one by FORETUNE_WEBHOOK_PRIVATE_HOSTS.",
        )
    return url


def _numeric(host: str) -> str | None:
    """Return the address that a host is in numbers, in whatever form: 127.1, 0x7f000001, 2130706433, ::1."""
    try:
        return str(IPv6Address(host)) if ":" in host else socket.inet_ntoa(socket.inet_aton(host))
    except (ValueError, OSError):
        return None


def _invalid(why: str) -> BadRequest:
    return BadRequest(
        "invalid_webhook_url",
        f"Nothing can be sent to this URL: {why}.",
        param=_PARAM,
        hint="Give one such as https://example.com/foretune.",
    )
