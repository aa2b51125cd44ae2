"""Which addresses belong to the internet rather than to the service's own network.

What a user names is connected to only where that leads out: not to this machine, its network, its cloud's metadata
service, or anything that only pretends to be elsewhere, as IPv6 forms of such an address do.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_UNICAST = IPv6Network("2000::/3")
_TUNNELS = (
    IPv6Network("2001::/32"),  # Teredo, RFC 4380
    IPv6Network("2002::/16"),  # 6to4, RFC 3056
)
"""Addresses in which another one hides, which a relay nearby would connect to."""
_NOT_OUTSIDE = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments, RFC 6890; Oracle's metadata service is in it
    IPv4Network("192.88.99.0/24"),  # relays of 6to4, RFC 7526
    IPv4Network("168.63.129.16/32"),  # what Azure serves its virtual machines
)
"""Those that the standard library counts as global."""


def is_public(address: str) -> bool:
    """Tell whether an IP address is one that the whole internet reaches.

    Args:
        address: numeric, as ``socket.getaddrinfo`` returns it.

    Raises:
        ValueError: it is no address.
    """
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        return _is_public_v6(parsed)
    return _is_public_v4(parsed)


def _is_public_v4(address: IPv4Address) -> bool:
    is_special = address.is_multicast or address.is_reserved or any(address in network for network in _NOT_OUTSIDE)
    return address.is_global and not is_special


def _is_public_v6(address: IPv6Address) -> bool:
    if address.ipv4_mapped is not None:
        return _is_public_v4(address.ipv4_mapped)
    is_tunnel = any(address in network for network in _TUNNELS)
    return address in _UNICAST and address.is_global and not is_tunnel
