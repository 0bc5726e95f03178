"""Who wants which port of the target: plain bookkeeping, without sockets.

Any number of owners may mirror a port; one may steal it. What is stolen is copied to those who mirror, too.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator, Sequence

from mirror.agent.incoming.owner import Owner
from mirror.agent.incoming.ruleset import Intercepted
from mirror.protocol.messages import SocketAddress, Subscribe


@dataclasses.dataclass(frozen=True)
class Route:
    """Who gets a connection."""

    thief: Owner | None
    """None: the target's own process keeps it."""
    mirrors: tuple[Owner, ...]
    keeps_http_probes: bool = False
    """The thief does not want the kubelet's HTTP probes."""


class Subscriptions:
    """At most one subscription for each owner and port; a second one takes the place of the first."""

    def __init__(self) -> None:
        self._of: dict[tuple[Owner, int], Subscribe] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def get(self, owner: Owner, port: int) -> Subscribe | None:
        """The owner's subscription to a port."""
        return self._of.get((owner, port))

    def put(self, owner: Owner, wanted: Subscribe) -> None:
        """Adds or replaces the owner's subscription to `wanted.port`."""
        self._of[owner, wanted.port] = wanted

    def remove(self, owner: Owner, port: int) -> None:
        """Ends one; does nothing where there is none."""
        self._of.pop((owner, port), None)

    def clear(self) -> None:
        """Ends all of them."""
        self._of.clear()

    def owners(self) -> set[Owner]:
        """All who have a subscription."""
        return {owner for owner, _ in self._of}

    def ports(self, owner: Owner) -> list[int]:
        """The ports to which an owner has subscribed."""
        return [port for of_owner, port in self._of if of_owner is owner]

    def thief(self, port: int) -> Owner | None:
        """Who steals a port, whatever the address."""
        return next((owner for (owner, _), wanted in self._of.items() if wanted.steal and wanted.port == port), None)

    def route(self, local: SocketAddress, caller: bytes = b"") -> Route:
        """Who gets a connection that was made to this address of the target.

        Args:
            local: Where it goes.
            caller: The address that it comes from.
        """
        wanting = [
            (owner, wanted)
            for (owner, _), wanted in self._of.items()
            if is_wanted(wanted, local) and caller not in wanted.keep_from
        ]
        thief, stolen = next(((owner, wanted) for owner, wanted in wanting if wanted.steal), (None, None))
        mirrors = tuple(owner for owner, wanted in wanting if not wanted.steal)
        return Route(thief, mirrors, stolen is not None and stolen.keep_http_probes)

    def rows(self) -> list[Intercepted]:
        """What has to be intercepted, in a stable order."""
        wishes: dict[tuple[int, socket.AddressFamily, bytes], list[Subscribe]] = {}
        for wanted in self._of.values():
            for family, address in _places(wanted.address):
                wishes.setdefault((wanted.port, family, address), []).append(wanted)
        return [
            Intercepted(family, port, address, not any(one.steal for one in wishing), _kept_by_all(wishing, family))
            for (port, family, address), wishing in sorted(wishes.items(), key=lambda row: row[0])
        ]


def is_wanted(wanted: Subscribe, local: SocketAddress) -> bool:
    """Whether a subscription is about connections to this address."""
    if wanted.port != local.port:
        return False
    return any(
        len(local.address) == (4 if family == socket.AF_INET else 16) and address in (b"", local.address)
        for family, address in _places(wanted.address)
    )


def _kept_by_all(wishing: Sequence[Subscribe], family: socket.AddressFamily) -> tuple[bytes, ...]:
    """The callers of a family that none of these subscriptions is about."""
    kept = set.intersection(*(set(one.keep_from) for one in wishing))
    return tuple(sorted(address for address in kept if len(address) == (4 if family == socket.AF_INET else 16)))


def _places(address: bytes) -> Iterator[tuple[socket.AddressFamily, bytes]]:
    """Families and addresses (empty: any) that a program's bind address stands for."""
    if not address:
        yield socket.AF_INET, b""
        yield socket.AF_INET6, b""
        return
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    yield family, address if any(address) else b""
