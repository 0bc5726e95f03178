"""An agent's side for the proxy's network parts: a real connection, and real sockets on this machine behind it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

import trio
import trio.testing

from mirror.agent.outgoing import carry, connect
from mirror.agent.sockets import make_socket
from mirror.cli.cluster.probes import Probes
from mirror.cli.errors import MirrorError
from mirror.cli.handover import Order
from mirror.cli.proxy.agent import Tell, tell_nobody
from mirror.cli.proxy.connections import Connections
from mirror.cli.proxy.incoming import Incoming
from mirror.cli.proxy.layers import LayerConnection, Process, Reply
from mirror.cli.proxy.names import Names
from mirror.cli.proxy.outgoing import Outgoing
from mirror.cli.proxy.uplink import Uplink
from mirror.cli.settings import Settings
from mirror.protocol.connection import ConnectionLost, TargetEnded
from mirror.protocol.features import FEATURES
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
    Welcome,
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


class Actor(Protocol):
    """What does an agent's work."""

    peer: Peer
    """The proxy; set with each connection."""

    async def handle(self, message: Message) -> Message | None:
        """Carries out what the proxy asks for."""


class Access:
    """An `agent.Agent` whose far end is `actor`.

    Attributes:
        begun: How many connections it was asked for.
        again: What it was told before each of them but the first.
        refusals: Why the next attempts fail, one each.
        may_begin: Attempts wait for it.
        ended: How it was ended, if it was.
        losses: What it was told of connections that were lost.
        pair: Makes the two ends of a connection; by default in memory, which goes together with a mock clock.
    """

    probes = Probes()
    comes_back = True

    def __init__(self, actor: Actor, nursery: trio.Nursery, name: str = "pod a", can: Sequence[str] = FEATURES) -> None:
        self.name = self.whereabouts = self.target_id = name
        self.actor = actor
        self.begun = 0
        self.again: list[MirrorError | None] = []
        self.refusals: list[MirrorError] = []
        self.may_begin = trio.Event()
        self.may_begin.set()
        self.ended: bool | None = None
        self.losses: list[str] = []
        self.pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] = trio.testing.memory_stream_pair
        self.replicas: tuple[Access, ...] = ()
        self._others = trio.Event()
        self._gone = ""
        self._next: tuple[Actor, str] | None = None
        self._has_gone = trio.Event()
        self._nursery = nursery
        self._can = can

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Nothing is held."""
        yield

    async def connect(self, tell: Tell) -> trio.abc.Stream:
        """A new connection to the actor."""
        self.begun += 1
        await self.may_begin.wait()
        if self.refusals:
            raise self.refusals.pop(0)
        if self._next is not None:
            self.actor, self.whereabouts = self._next
            self.target_id, self._next = f"target {self.begun}", None
        ours, theirs = self.pair()
        peer = Peer(theirs, is_client=False, handler=self.actor.handle, capabilities=self._can)
        self.actor.peer = peer
        self._nursery.start_soon(_run, peer)
        return ours

    async def explain(self, error: Exception) -> MirrorError | None:
        """What it was."""
        return MirrorError(str(error))

    async def explain_silence(self, waited_s: float) -> MirrorError | None:
        """That it was silent."""
        return MirrorError(f"no answer within {waited_s:.0f} s")

    def welcomed(self) -> None:
        """Nothing follows from that."""

    def begin_again(self, failure: MirrorError | None) -> None:
        """Notes it."""
        self.again.append(failure)

    async def pause(self, seconds: float) -> None:
        """Nothing more can be seen."""
        await trio.sleep(seconds)

    def lost(self, error: Exception) -> str:
        """What the agent said."""
        self.losses.append(str(error))
        return str(error) if isinstance(error, TargetEnded) else ""

    def move(self, actor: Actor, whereabouts: str) -> None:
        """The next connection is to another actor, beside the target where it is then."""
        self._next = actor, whereabouts

    def go(self, why: str, actor: Actor, whereabouts: str) -> None:
        """The same, and it is seen while there is a connection."""
        self.move(actor, whereabouts)
        self.announce(why)

    def announce(self, why: str) -> None:
        """It is seen that its target goes."""
        self._gone = why
        self._has_gone.set()

    async def until_gone(self, _: Callable[[str], None], /) -> str:
        """Until `go`."""
        await self._has_gone.wait()
        self._has_gone = trio.Event()
        return self._gone

    def put_replicas(self, *replicas: Access) -> None:
        """Its target has these others from here on."""
        self.replicas = replicas
        self._others.set()
        self._others = trio.Event()

    async def until_others(self, replicas: Sequence[object]) -> None:
        """Until `put_replicas` has put others."""
        while {*replicas} == {*self.replicas}:
            await self._others.wait()

    async def end(self, *, at_once: bool) -> None:
        """Notes it."""
        self.ended = at_once


class Session:
    """What the parts are given."""

    uplink: Uplink

    def __init__(self, settings: Settings, nursery: trio.Nursery) -> None:
        self.settings = settings
        self.order = Order(settings, 1, (), (), "/", {"USER": "anna"}, None)
        self.missing: dict[str, str] = {}
        self.probes = Probes()
        self.told: list[str] = []
        self.lost: list[Exception] = []
        self.nursery = nursery

    def start(self, function: Callable[..., Awaitable[object]], *arguments: Any) -> None:
        """Runs a task."""
        self.nursery.start_soon(function, *arguments)

    def tell_user(self, sentence: str, *, again: bool = False) -> None:
        """Notes it."""
        if again or sentence not in self.told:
            self.told.append(sentence)

    def agent_lost(self, error: Exception) -> None:
        """Notes it."""
        self.lost.append(error)


class Network:
    """The proxy's parts, as one layer sees them."""

    def __init__(self, session: Session, agent: Agent, access: Access) -> None:
        self.session = session
        self.agent = agent
        self.access = access
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

    def new_agent(self) -> Agent:
        """Another one, which is not connected."""
        return Agent(peer=None, nursery=self.session.nursery)  # type: ignore[arg-type]

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


@contextlib.asynccontextmanager
async def open_network(incoming: str = "steal") -> AsyncIterator[Network]:
    """Proxy and agent, connected; everything ends with the block."""
    with trio.fail_after(AGENT_WITHIN_S):
        async with trio.open_nursery() as nursery:
            agent = Agent(peer=None, nursery=nursery)  # type: ignore[arg-type]
            access = Access(agent, nursery)
            access.pair = _socket_pair
            session = Session(Settings(target="pid/1", incoming=incoming), nursery)
            network = Network(session, agent, access)

            async def settle(peer: Peer, _: Welcome, former: Peer | None) -> None:
                await network.incoming.settle(peer, former)

            session.uplink = Uplink(session, access, network.incoming.hear, settle, "wait")  # type: ignore[arg-type]
            await session.uplink.begin(tell_nobody)
            nursery.start_soon(session.uplink.keep)
            try:
                await nursery.start(network.incoming.run)
                yield network
            finally:
                network.close()
                nursery.cancel_scope.cancel()


def _socket_pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    one, other = trio.socket.socketpair()
    return trio.SocketStream(one), trio.SocketStream(other)


async def _run(peer: Peer) -> None:
    """Until the proxy says goodbye."""
    with contextlib.suppress(ConnectionLost):
        await peer.run()
