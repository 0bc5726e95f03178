"""Sockets for the target, made by the worker: they belong to its network and to its user.

Also the two ways of writing an endpoint: the protocol's `SocketAddress` and the tuples of Python's `socket`.
"""

from __future__ import annotations

import socket
from typing import Any

from mirror.protocol.messages import Connect, SocketAddress

Endpoint = tuple[str, int] | tuple[str, int, int, int]
"""What Python's `socket` takes for IPv4 and IPv6; the host is always numeric, so nothing is ever looked up."""


def make_socket(request: Connect) -> int:
    """A TCP socket that `request` can be carried out with: bound if it says so, not connecting yet.

    Returns:
        Its descriptor, non-blocking; the caller closes it.

    Raises:
        OSError: As socket(2) and bind(2).
    """
    with socket.socket(family_of(request.endpoint), socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as made:
        if request.bind is not None:
            made.bind(to_python(request.bind))
        return made.detach()


def family_of(endpoint: SocketAddress) -> socket.AddressFamily:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if len(endpoint.address) == 4 else socket.AF_INET6


def to_python(endpoint: SocketAddress) -> Endpoint:
    """The endpoint as Python's `socket` takes it.

    Raises:
        OSError: The address has neither 4 nor 16 bytes.
    """
    try:
        host = socket.inet_ntop(family_of(endpoint), endpoint.address)
    except ValueError as error:
        raise OSError(22, str(error)) from None
    if len(endpoint.address) == 4:
        return host, endpoint.port
    return host, endpoint.port, endpoint.flowinfo, endpoint.scope_id


def from_python(endpoint: Any) -> SocketAddress:
    """The endpoint that getsockname and getpeername of an IPv4 or IPv6 socket gave."""
    host, port, *rest = endpoint
    # A link-local address comes with its interface behind a `%`, which scope_id says too.
    host = host.partition("%")[0]
    family = socket.AF_INET6 if rest else socket.AF_INET
    return SocketAddress(socket.inet_pton(family, host), port, *rest)
