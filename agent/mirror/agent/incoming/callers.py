"""Whose address the target's process sees on connections that are passed on to it.

A caller from outside is given a number, which the connection's mark carries and the table's map turns into the
address. Addresses are few (ingress, other pods, nodes) where connections are many, so the map is changed once an
address and not once a connection. A caller inside the target needs none of that: its address is there to be bound
to.
"""

from __future__ import annotations

import collections
import ipaddress
import socket
from collections.abc import Awaitable, Callable

import trio

from mirror.agent.incoming.namespace import NamespaceThread
from mirror.agent.incoming.ruleset import CALLERS_MAX

Change = Callable[[int, bytes], Awaitable[None]]


class Callers:
    """The numbers of caller addresses.

    Args:
        add: Puts a number and an address (4 or 16 bytes) into the table. Raises OSError if it cannot.
        remove: Takes them out again.
    """

    def __init__(self, namespace: NamespaceThread, add: Change, remove: Change, limit: int = CALLERS_MAX) -> None:
        self._namespace = namespace
        self._add = add
        self._remove = remove
        self._free = list(range(limit - 1, 0, -1))
        self._numbers: collections.OrderedDict[bytes, int] = collections.OrderedDict()
        """The one not used for the longest time first. 0: the address is the target's own."""
        self._change = trio.Lock()

    def numbered(self) -> list[tuple[int, bytes]]:
        """All that should be in the table."""
        return [(number, address) for address, number in self._numbers.items() if number]

    async def number(self, address: bytes) -> int | None:
        """The number for a caller's address; 0: the address is one of the target's own.

        None: it cannot be put back (a link-local address, whose link would be lost).

        Raises:
            OSError: The table could not be changed.
        """
        if (known := self._numbers.get(address)) is not None:
            self._numbers.move_to_end(address)
            return known
        ip = ipaddress.ip_address(address)
        if ip.version == 6 and ip.is_link_local:
            return None
        if ip.is_loopback:
            return 0
        async with self._change:
            if (known := self._numbers.get(address)) is not None:
                return known
            if await self._namespace.run(_is_local, address):
                self._numbers[address] = 0
                return 0
            if not self._free:
                await self._evict()
            number = self._free.pop()
            try:
                await self._add(number, address)
            except BaseException:
                self._free.append(number)
                raise
            self._numbers[address] = number
            return number

    async def _evict(self) -> None:
        """Connections that exist keep their address; only new ones look into the map."""
        address, number = next((address, number) for address, number in self._numbers.items() if number)
        await self._remove(number, address)
        del self._numbers[address]
        self._free.append(number)


def _is_local(address: bytes) -> bool:
    """Whether the address is the namespace's own: the kernel then uses it to talk to it."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    name = socket.inet_ntop(family, address)
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect((name, 9))  # any port: nothing is sent
        except OSError:
            return False
        return bool(probe.getsockname()[0] == name)
