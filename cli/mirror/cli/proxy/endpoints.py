"""Endpoints three ways: the protocol's `SocketAddress`, the tuples of Python's `socket`, and where they stand.

IPv4 is always IPv4 here: a v4-mapped IPv6 address, which is how an IPv6 socket sees an IPv4 peer, is turned into the
IPv4 address when it comes in. Nothing here does I/O.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from mirror.protocol.messages import SocketAddress

ANY_IPV4 = bytes(4)
ANY_IPV6 = bytes(16)
LOOPBACK_IPV4 = bytes([127, 0, 0, 1])
LOOPBACK_IPV6 = ipaddress.IPv6Address("::1").packed

_MAPPED = ANY_IPV6[:10] + b"\xff\xff"


def family_of(endpoint: SocketAddress) -> socket.AddressFamily:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if len(endpoint.address) == 4 else socket.AF_INET6


def plain(endpoint: SocketAddress) -> SocketAddress:
    """The endpoint without what does not tell connections apart: v4-mapping, flow label and scope."""
    address = endpoint.address
    if len(address) == 16 and address.startswith(_MAPPED):
        address = address[12:]
    return SocketAddress(address, endpoint.port)


def to_python(endpoint: SocketAddress) -> tuple[Any, ...]:
    """As Python's `socket` takes it; the host is numeric, so nothing is looked up."""
    host = socket.inet_ntop(family_of(endpoint), endpoint.address)
    if len(endpoint.address) == 4:
        return host, endpoint.port
    return host, endpoint.port, endpoint.flowinfo, endpoint.scope_id


def from_python(endpoint: Any) -> SocketAddress:
    """Of what getsockname and getpeername give for an IPv4 or IPv6 socket; see `plain` for what is left out."""
    host, port, *rest = endpoint
    packed = socket.inet_pton(socket.AF_INET6 if rest else socket.AF_INET, host.partition("%")[0])
    return plain(SocketAddress(packed, port))


def is_wildcard(endpoint: SocketAddress) -> bool:
    """0.0.0.0 or ::."""
    return not any(endpoint.address)


def is_loopback(endpoint: SocketAddress) -> bool:
    """127.0.0.0/8 or ::1."""
    return endpoint.address == LOOPBACK_IPV6 or (len(endpoint.address) == 4 and endpoint.address[0] == 127)
