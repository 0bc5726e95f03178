"""An agent's side for the proxy's network parts: a real connection, and real sockets on this machine behind it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import trio

from mirror.agent.outgoing import carry, connect
from mirror.agent.sockets import make_socket
from mirror.cli.cluster.probes import Probes
from mirror.cli.proxy.connections import Connections
from mirror.cli.proxy.incoming import Incoming
from mirror.cli.proxy.layers import LayerConnection, Process, Reply
from mirror.cli.proxy.names import Names
from mirror.cli.proxy.outgoing import Outgoing
from mirror.cli.settings import Settings
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.messages import (
    Accepted,
    AddressLookedUp,
    Connect,
    Connected,
    Done,
    LookUpAddress,
    LookUpFailed,
    Message,
    SocketAddress,
    Subscribe,
    Unsubscribe,
)
from mirror.protocol.stream import Channel, Peer, RequestFailed

AGENT_WITHIN_S = 60
"""Nothing here takes longer, on a busy machine either; a test that would hang fails instead."""


@dataclasses.dataclass
class Agent:
    """The agent's side."""

    peer: Peer
    nursery: trio.Nursery
    heard: list[Message] = dataclasses.field(default_factory=list)
    """Every message but Connect, in order."""
    connect_errno: int = 0
    """If not 0, how every Connect fails."""
    hold: trio.Event | None = None
    """If set, Connect and look-ups wait for it."""
    holders: int = 0
    """Requests that are waiting for `hold`, or have."""
    refused_port: int = 0
    """Subscribing to it fails, as if somebody else had it."""
    changed: trio.Event = dataclasses.field(default_factory=trio.Event)

    async def handle(self, message: Message) -> Message | None:
        """Carries out what the proxy asks for."""
        if isinstance(message, Connect):
            return await self._connect(message)
        self.heard.append(message)
        self.note()
        match message:
            case Subscribe():
                if message.port == self.refused_port:
                    raise RequestFailed(errno.EADDRINUSE, "somebody else has it")
                return Done()
            case Unsubscribe():
                return Done()
            case LookUpAddress():
                await self._wait()
                if message.node == b"absent":
                    return LookUpFailed(socket.EAI_NONAME)
                if message.node == b"later":
                    return LookUpFailed(socket.EAI_AGAIN)
                return AddressLookedUp((), message.node)
        raise RequestFailed(errno.ENOSYS)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until something that this agent has heard makes a condition true."""
        while not condition():
            self.changed = trio.Event()
            await self.changed.wait()

    def note(self) -> None:
        """Wakes `until`."""
        self.changed.set()

    async def deliver(self, local: SocketAddress, peer: SocketAddress, *, steal: bool = True) -> Channel:
        """As if a caller had connected to the target."""
        channel = self.peer.open_channel()
        await self.peer.notify(Accepted(channel.id, local, peer, steal))
        return channel

    async def _connect(self, message: Connect) -> Connected:
        await self._wait()
        if self.connect_errno:
            raise RequestFailed(self.connect_errno)
        try:
            made = socket.socket(fileno=make_socket(message))
        except OSError as error:
            raise RequestFailed(error.errno or errno.EIO) from None
        try:
            connected = await connect(made, message)
        except BaseException:
            made.close()
            raise
        self.nursery.start_soon(carry, made, self.peer.accept_channel(message.channel))
        return connected

    async def _wait(self) -> None:
        self.holders += 1
        self.note()
        if self.hold is not None:
            await self.hold.wait()


class Session:
    """What the parts are given."""

    def __init__(self, peer: Peer, settings: Settings, nursery: trio.Nursery) -> None:
        self.peer = peer
        self.settings = settings
        self.missing: dict[str, str] = {}
        self.probes = Probes()
        self._nursery = nursery

    def start(self, function: Callable[..., Awaitable[object]], *arguments: Any) -> None:
        """Runs a task."""
        self._nursery.start_soon(function, *arguments)

    def tell_user(self, sentence: str) -> None:
        """Nobody reads it."""


class Network:
    """The proxy's parts, as one layer sees them."""

    def __init__(self, session: Session, agent: Agent) -> None:
        self.session = session
        self.agent = agent
        self.connections = Connections()
        self.outgoing = Outgoing(session, self.connections)
        self.incoming = Incoming(session, self.connections)
        self.names = Names(session)
        self._handlers = {
            **self.connections.handlers(),
            **self.outgoing.handlers(),
            **self.incoming.handlers(),
            **self.names.handlers(),
        }
        ours, self._theirs = socket.socketpair()
        self._layer = LayerConnection(ours, os.getpid(), os.getuid(), Process(os.getpid()))
        self._ours = ours

    def close(self) -> None:
        """Closes what belongs to nobody else."""
        self.outgoing.close()
        self._ours.close()
        self._theirs.close()

    async def ask(self, message: Message, *fds: int) -> Message:
        """A request of the layer's.

        Raises:
            RequestFailed: It was answered by Failed.
        """
        reply = await self._handlers[type(message)](self._layer, message, list(fds))
        assert isinstance(reply, Reply)
        return reply.message

    async def tell(self, message: Message, *fds: int) -> None:
        """A notification of the layer's."""
        assert await self._handlers[type(message)](self._layer, message, list(fds)) is None

    async def errno_of(self, message: Message) -> int:
        """How a request fails."""
        try:
            await self.ask(message)
        except RequestFailed as error:
            return error.errno
        raise AssertionError(f"{message} did not fail")

    async def hear(self, message: Message) -> None:
        """A notification of the agent's."""
        assert isinstance(message, Accepted)
        await self.incoming.accepted(message, self.session.peer)


@contextlib.asynccontextmanager
async def open_network(incoming: str = "steal") -> AsyncIterator[Network]:
    """Proxy and agent, connected; everything ends with the block."""
    ours, theirs = trio.socket.socketpair()
    network: Network

    async def hear(message: Message) -> Message | None:
        await network.hear(message)
        return None

    with trio.fail_after(AGENT_WITHIN_S):
        async with trio.open_nursery() as nursery:
            agent = Agent(peer=None, nursery=nursery)  # type: ignore[arg-type]
            agent.peer = Peer(trio.SocketStream(theirs), is_client=False, handler=agent.handle)
            peer = Peer(trio.SocketStream(ours), is_client=True, handler=hear)
            nursery.start_soon(_run, agent.peer)
            await nursery.start(peer.run)
            network = Network(Session(peer, Settings(target="pid/1", incoming=incoming), nursery), agent)
            try:
                await nursery.start(network.incoming.run)
                yield network
            finally:
                network.close()
                nursery.cancel_scope.cancel()


async def _run(peer: Peer) -> None:
    """Until the proxy says goodbye."""
    with contextlib.suppress(ConnectionLost):
        await peer.run()
