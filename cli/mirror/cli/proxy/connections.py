"""What a connection of the program's is called in the target: the answer to getsockname and getpeername.

The layer remembers nothing about connections. It sees that a socket's other end is the proxy and asks here, by the two
addresses that the socket really has; so the answer is the same in every process that ever gets the descriptor.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from mirror.cli.cluster.probes import Probes
from mirror.cli.proxy.endpoints import plain
from mirror.cli.proxy.layers import Handler, LayerConnection, Reply
from mirror.cli.settings import Settings
from mirror.protocol.messages import DescribeSocket, Message, SocketAddress, SocketDescribed
from mirror.protocol.stream import RequestFailed

if TYPE_CHECKING:
    from mirror.cli.proxy.uplink import Uplink

MOST = 65536
"""Entries; the oldest goes first. Nobody says when a program has no more use for one, and a pair of loopback ports
that is used again replaces its entry."""


class Session(Protocol):
    """What the network's parts need of `session.Session`."""

    @property
    def uplink(self) -> Uplink:
        """The connection to the agent."""
        ...

    @property
    def settings(self) -> Settings:
        """What the user asked for."""
        ...

    @property
    def missing(self) -> Mapping[str, str]:
        """For each capability that the agent lacks, why."""
        ...

    @property
    def probes(self) -> Probes:
        """On which ports of the target its probes ask."""
        ...

    def start(self, function: Callable[..., Awaitable[object]], *arguments: Any) -> None:
        """Runs a task until the session ends."""

    def tell_user(self, sentence: str) -> None:
        """Shows the user a sentence, once."""


class Connections:
    """Names of connections, by the two ends of the program's socket on the user's machine."""

    def __init__(self) -> None:
        self._described: OrderedDict[tuple[SocketAddress, SocketAddress], SocketDescribed] = OrderedDict()

    def handlers(self) -> dict[type[Message], Handler]:
        """For the layer's messages."""
        return {DescribeSocket: self._describe}

    def put(self, local: SocketAddress, peer: SocketAddress, described: SocketDescribed) -> None:
        """To be called before the program can see the connection.

        Args:
            local: What its socket is bound to on the user's machine.
            peer: The other end there.
            described: The two in the target.
        """
        key = plain(local), plain(peer)
        self._described[key] = described
        self._described.move_to_end(key)
        if len(self._described) > MOST:
            self._described.popitem(last=False)

    async def _describe(self, _: LayerConnection, message: DescribeSocket, __: list[int]) -> Reply:
        described = self._described.get((plain(message.local), plain(message.peer)))
        if described is None:
            raise RequestFailed(errno.ENOENT)
        return Reply(described)
