"""The sockets that incoming traffic needs in the target: listeners, connections to its own process, claims.

All of them are made by the thread in the target's network namespace; what is done with them afterwards is done
anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct

from mirror.agent.incoming.namespace import NamespaceThread
from mirror.agent.incoming.support import make_transparent
from mirror.protocol.messages import SocketAddress

_BACKLOG = 4096
_POOL = 16
_SO_ORIGINAL_DST = 80
"""The same number for IPv4 (linux/netfilter_ipv4.h) and IPv6 (linux/netfilter_ipv6/ip6_tables.h)."""
_IP_BIND_ADDRESS_NO_PORT = 24


def listen(family: socket.AddressFamily, *, transparent: bool) -> socket.socket | None:
    """A listener for intercepted connections, in the namespace of the calling thread.

    Args:
        family: AF_INET or AF_INET6.
        transparent: For tproxy: on loopback, reachable for nobody else. Otherwise, for redirect, on any address.

    Returns:
        None where the namespace does not have this family.
    """
    try:
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    except OSError:
        return None
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Inherited by what is accepted: those sockets have the target's own port, and its process must be able to bind
        # that again while they, or what is left of them (TIME_WAIT), are there.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if transparent:
            make_transparent(listener)
            listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        else:
            listener.bind(("", 0))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if family == socket.AF_INET6 and error.errno == errno.EADDRNOTAVAIL:
            return None
        raise
    return listener


def claim(name: str) -> socket.socket | None:
    """A name that only one process in the calling thread's network namespace can hold, until it closes this socket.

    Abstract unix addresses belong to a network namespace, and the kernel takes them back whatever happens.

    Returns:
        None where somebody else holds it.
    """
    claimed = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        claimed.bind(b"\0mirror/" + name.encode())
    except OSError as error:
        claimed.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return claimed


def destination(accepted: socket.socket, *, transparent: bool) -> SocketAddress | None:
    """Where the caller of an accepted connection wanted to go; None: to the listener itself, which nobody should."""
    family = accepted.family
    own = accepted.getsockname()
    if transparent:
        return endpoint(family, own)
    level = socket.SOL_IP if family == socket.AF_INET else socket.IPPROTO_IPV6
    try:
        raw = accepted.getsockopt(level, _SO_ORIGINAL_DST, 28)
    except OSError:
        return None
    (port,) = struct.unpack_from("!H", raw, 2)
    if port == own[1]:
        return None
    if family == socket.AF_INET:
        return SocketAddress(raw[4:8], port)
    (flowinfo,) = struct.unpack_from("!I", raw, 4)
    (scope_id,) = struct.unpack_from("=I", raw, 24)
    return SocketAddress(raw[8:24], port, flowinfo, scope_id)


def endpoint(family: int, name: tuple[str, int] | tuple[str, int, int, int]) -> SocketAddress:
    """Python's form of an address as a message's."""
    host = name[0].partition("%")[0]
    packed = socket.inet_pton(family, host)
    return SocketAddress(packed, name[1], *name[2:])


def socket_name(address: SocketAddress) -> tuple[str, int] | tuple[str, int, int, int]:
    """The other way round."""
    if len(address.address) == 4:
        return socket.inet_ntop(socket.AF_INET, address.address), address.port
    host = socket.inet_ntop(socket.AF_INET6, address.address)
    return host, address.port, address.flowinfo, address.scope_id


class Outlets:
    """Fresh sockets for connections to the target's own process, made by the dozen: each errand to the thread costs."""

    def __init__(self, namespace: NamespaceThread) -> None:
        self._namespace = namespace
        self._ready: dict[int, list[socket.socket]] = {socket.AF_INET: [], socket.AF_INET6: []}

    async def take(self, local: SocketAddress, mark: int, source: bytes | None) -> socket.socket:
        """A socket with the mark, bound to the address `source` if there is one.

        Raises:
            OSError: No more descriptors; or `source` is not an address of the target (any more).
        """
        family = socket.AF_INET if len(local.address) == 4 else socket.AF_INET6
        ready = self._ready[family]
        if not ready:
            ready += await self._namespace.run(_make, family, _POOL)
        outlet = ready.pop()
        try:
            outlet.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            if source is not None:
                outlet.setsockopt(socket.SOL_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                outlet.bind(socket_name(SocketAddress(source, 0)))
        except OSError:
            outlet.close()
            raise
        return outlet

    def close(self) -> None:
        """Closes those that nobody took."""
        for ready in self._ready.values():
            while ready:
                ready.pop().close()


def _make(family: int, count: int) -> list[socket.socket]:
    kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    made = [socket.socket(family, kind)]
    with contextlib.suppress(OSError):  # one will do
        made.extend(socket.socket(family, kind) for _ in range(count - 1))
    return made
