"""Where the program listens: in its own eyes (`asked`), and in truth on the user's machine (`bound`). Pure.

The rules of bind(2) for addresses that stand for several: 0.0.0.0 is every IPv4 address, :: every IPv6 address and,
without IPV6_V6ONLY, every IPv4 address too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from mirror.cli.proxy.endpoints import (
    ANY_IPV4,
    ANY_IPV6,
    LOOPBACK_IPV4,
    LOOPBACK_IPV6,
    is_wildcard,
)
from mirror.protocol.messages import SocketAddress


@dataclasses.dataclass(frozen=True)
class Listener:
    """One listening socket of the session."""

    asked: SocketAddress
    """In the target's terms."""
    bound: SocketAddress
    """On the user's machine."""
    v6only: bool = False
    inode: int = 0
    """Of the socket."""

    @property
    def is_moved(self) -> bool:
        """Whether it is not where the program thinks."""
        return self.asked != self.bound

    def takes(self, called: SocketAddress) -> bool:
        """Whether a connection to this address of the target is for it."""
        if called.port != self.asked.port:
            return False
        return called.address == self.asked.address or len(called.address) in self._sizes

    @property
    def _sizes(self) -> tuple[int, ...]:
        """The sizes of the addresses for which a wildcard stands."""
        if not is_wildcard(self.asked):
            return ()
        if len(self.asked.address) == 4:
            return (4,)
        return (16,) if self.v6only else (4, 16)

    def reached_by(self, called: SocketAddress) -> SocketAddress:
        """Where on the user's machine to connect to, for a connection to `called` in the target."""
        if not is_wildcard(self.bound):
            return self.bound
        address = called.address if called.address[:1] == b"\x7f" and len(called.address) == 4 else LOOPBACK_IPV4
        if len(self.bound.address) == 16 and (len(called.address) == 16 or self.v6only):
            address = LOOPBACK_IPV6
        return SocketAddress(address, self.bound.port)


def overlap(one: SocketAddress, other: SocketAddress) -> bool:
    """Whether two sockets bound to these may be meant by one connection."""
    return one.port == other.port and (one.address == other.address or is_wildcard(one) or is_wildcard(other))


def best(listeners: Iterable[Listener], called: SocketAddress) -> Listener | None:
    """Who gets a connection: the one with the closest address, as in the kernel."""
    candidates = [listener for listener in listeners if listener.takes(called)]

    def distance(listener: Listener) -> int:
        if not is_wildcard(listener.asked):
            return 0
        return 1 if len(listener.asked.address) == len(called.address) else 2

    return min(candidates, key=distance, default=None)


def loopback(called: SocketAddress) -> SocketAddress:
    """What the kernel makes of connecting to a wildcard address: the loopback of its family."""
    if not is_wildcard(called):
        return called
    return SocketAddress(LOOPBACK_IPV4 if len(called.address) == 4 else LOOPBACK_IPV6, called.port)


def subscription_address(listeners: Iterable[Listener]) -> bytes:
    """The `address` of one Subscribe for all listeners of a port: as narrow as possible."""
    addresses = {
        b"" if listener.asked.address == ANY_IPV6 and not listener.v6only else listener.asked.address
        for listener in listeners
    }
    if len(addresses) == 1:
        return addresses.pop()
    sizes = {len(address) for address in addresses}
    if sizes == {4}:
        return ANY_IPV4
    return ANY_IPV6 if sizes == {16} else b""
