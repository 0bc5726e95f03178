"""Incoming TCP: the program's listeners, subscriptions to their ports in the target, and deliveries.

    program: bind, listen ──Listen──▶ proxy ──Subscribe──▶ agent
    caller in the cluster ──▶ agent ──Accepted, bytes──▶ proxy ──connect from the delivery address──▶ program: accept

A listener lives as long as the kernel says so, whichever processes share it and however it is closed; the layer's
ListenerClosed is only a hint to look at once. Not here: how the agent gets the connections (agent/incoming), what the
addresses mean (`listeners`), which ports of the user's machine there are (`ports`), carrying bytes (`carry`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import secrets
import socket
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio

from mirror.cli.proxy.carry import carry, open_socket
from mirror.cli.proxy.connections import Connections, Session
from mirror.cli.proxy.endpoints import (
    LOOPBACK_IPV4,
    LOOPBACK_IPV6,
    family_of,
    from_python,
    plain,
    to_python,
)
from mirror.cli.proxy.layers import Handler, LayerConnection, Reply
from mirror.cli.proxy.listeners import Listener, best, loopback, overlap, subscription_address
from mirror.cli.proxy.listening import listening
from mirror.cli.proxy.ports import claim_port, free_port, place
from mirror.cli.proxy.replicas import Replicas
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.messages import (
    Accepted,
    ChoosePort,
    ClaimPort,
    Done,
    FindListener,
    Listen,
    ListenerClosed,
    ListenerFound,
    Message,
    Notice,
    PortChosen,
    SocketAddress,
    SocketDescribed,
    Subscribe,
    Unsubscribe,
)
from mirror.protocol.stream import Channel, Peer, RequestFailed

if TYPE_CHECKING:
    from mirror.cli.proxy.uplink import Uplink

LOOK_EVERY_S = 0.25
"""While something listens."""

_LOOPBACK = (LOOPBACK_IPV4, LOOPBACK_IPV6)
"""From where a pod calls itself."""
_STOPS_WITHIN_S = 1.0
"""An agent that is left; what happens if it does not answer is its own affair."""


@dataclasses.dataclass
class _Port:
    """A port of the target on which the program listens."""

    lock: trio.Lock = dataclasses.field(default_factory=trio.Lock)
    """Held while the agent is told, so that it is told the latest last."""
    listeners: dict[int, Listener] = dataclasses.field(default_factory=dict)
    """By inode."""
    subscribed: Subscribe | None = None


class Incoming:
    """Delivers connections to the program.

    Args:
        session: For the agent, and for tasks.
        connections: Learns the names of connections.

    Attributes:
        replicas: The target's other pods.
        delivery: The loopback address that deliveries come from, drawn for the session.
    """

    def __init__(self, session: Session, connections: Connections) -> None:
        self._session = session
        self._connections = connections
        self.replicas: Replicas | None = None
        self._ports: dict[int, _Port] = {}
        self._chosen: dict[int, int] = {}
        """Port of the target: that of the user's machine in its place."""
        self._claimed: dict[int, socket.socket] = {}
        """Ports of the user's machine, each with what keeps other sessions off."""
        self._something_listens = trio.Event()
        # Not 127.0.x.y, where other things live: 127.0.0.1, 127.0.0.53, 127.0.1.1.
        self.delivery = bytes([127, 64 + secrets.randbelow(128), secrets.randbelow(256), 1 + secrets.randbelow(254)])

    def handlers(self) -> dict[type[Message], Handler]:
        """For the layer's messages."""
        return {
            Listen: self._listen,
            ListenerClosed: self._listener_closed,
            FindListener: self._find_listener,
            ClaimPort: self._claim_port,
            ChoosePort: self._choose_port,
        }

    def moved(self) -> tuple[Listen, ...]:
        """The listeners that are not where the program thinks, for `Registered`."""
        moved = {
            listener.bound: Listen(listener.asked, listener.bound, listener.v6only, listener.inode)
            for listener in self._all_listeners()
            if listener.is_moved
        }
        return tuple(moved.values())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Looks every now and then which listeners are gone."""
        task_status.started()
        try:
            while True:
                await self._something_listens.wait()
                await trio.sleep(LOOK_EVERY_S)
                await self._look()
        finally:
            for claim in self._claimed.values():
                claim.close()

    async def settle(self, peer: Peer, former: Peer | None) -> None:
        """Has a new agent do what the one before did, which stops first: both may be in the same pod."""
        for number, port in list(self._ports.items()):
            async with port.lock:
                if port.subscribed is None:
                    continue
                if former is not None:
                    with contextlib.suppress(ConnectionLost, RequestFailed), trio.move_on_after(_STOPS_WITHIN_S):
                        await former.request(Unsubscribe(number))
                # What fails is tried again by `_look`.
                port.subscribed = None
                if not port.listeners or "incoming" in self._session.missing:
                    continue
                wanted = self._subscription(number, port)
                try:
                    await peer.request(wanted)
                    port.subscribed = wanted
                except RequestFailed as error:
                    self._session.tell_user(f"port {number} of the target stays with the target: {error}")

    async def hear(self, message: Message, peer: Peer) -> Message | None:
        """What an agent says of its own accord."""
        match message:
            case Notice(text):
                self._session.tell_user(text)
            case Accepted():
                await self.accepted(message, peer)
            case _:
                raise RequestFailed(errno.ENOSYS, f"the proxy does not expect {type(message).__name__}")
        return None

    async def accepted(self, message: Accepted, peer: Peer) -> None:
        """Takes a connection from an agent; returns at once."""
        channel = peer.accept_channel(message.channel)
        self._session.start(self._contain, channel, message)

    # --- listeners ----------------------------------------------------------------------------------------

    async def _listen(self, _: LayerConnection, message: Listen, __: list[int]) -> Reply:
        listener = Listener(plain(message.asked), plain(message.bound), message.v6only, message.inode)
        port = self._ports.setdefault(listener.asked.port, _Port())
        async with port.lock:
            self._refuse_second(port, listener)
            known = port.listeners.get(listener.inode)
            port.listeners[listener.inode] = listener
            self._something_listens.set()
            try:
                await self._subscribe(listener.asked.port, port, self._session.uplink)
            except BaseException:
                if known is None:
                    del port.listeners[listener.inode]
                raise
        return Reply(Done())

    def _refuse_second(self, port: _Port, listener: Listener) -> None:
        """The kernel could not know that two real ports are meant to be one."""
        for other in _alive(port.listeners.values()):
            if other.asked == listener.asked and other.bound != listener.bound:
                raise RequestFailed(errno.EADDRINUSE)

    async def _listener_closed(self, _: LayerConnection, __: ListenerClosed, ___: list[int]) -> None:
        await self._look()

    async def _look(self) -> None:
        """Forgets the listeners that the kernel does not have any more."""
        for number, port in list(self._ports.items()):
            if port.lock.locked() and self._session.uplink.present is None:
                continue  # it waits for an agent, perhaps for long
            async with port.lock:
                port.listeners = {listener.inode: listener for listener in _alive(port.listeners.values())}
                # What cannot be had now is asked for the next time.
                with contextlib.suppress(ConnectionLost, RequestFailed):
                    await self._subscribe(number, port, self._session.uplink.present)
            if not port.listeners and not port.lock.locked():
                self._ports.pop(number, None)
        if self.replicas is not None:
            await self.replicas.ask_again()
        if not self._ports:
            self._something_listens = trio.Event()

    async def _subscribe(self, number: int, port: _Port, agent: Uplink | Peer | None) -> None:
        """Tells the agent what is wanted of a port, if that has changed, and if there is one."""
        mode = self._session.settings.incoming
        if mode == "off":
            return
        if "incoming" in self._session.missing:
            if port.listeners:
                self._session.tell_user(
                    f"port {number} of the target stays with the target: {self._session.missing['incoming']}"
                )
            return
        if not port.listeners:
            if port.subscribed is not None:
                port.subscribed = None
                if self.replicas is not None:
                    await self.replicas.unsubscribe(number)
                if agent is not None:
                    await agent.request(Unsubscribe(number))
            return
        wanted = self._subscription(number, port)
        if wanted != port.subscribed and agent is not None:
            await agent.request(wanted)
            port.subscribed = wanted
            if self.replicas is not None:
                await self.replicas.subscribe(wanted)

    def _subscription(self, number: int, port: _Port) -> Subscribe:
        """What is wanted of a port; when it is stolen, its probes are not unless asked for."""
        settings, probes = self._session.settings, self._session.probes
        steals = settings.incoming == "steal"
        keeps_probes = steals and not settings.steals_probes
        keeps_node = keeps_probes and number in probes.other
        if keeps_node:
            self._session.tell_user(
                f"the probes of port {number} cannot be told from other connections, so all that the target's own node "
                f"sends there stays with the target, also what came in by a NodePort; --steal-probes takes it"
            )
        keeps_loopback = keeps_probes and probes.are_commands
        if keeps_loopback:
            self._session.tell_user(
                f"the target is probed by commands that run in it and may call port {number} there, so what comes from "
                f"its own loopback stays with it; --steal-probes takes it"
            )
        return Subscribe(
            number,
            steals,
            subscription_address(port.listeners.values()),
            keep_from=_LOOPBACK if keeps_loopback else (),
            keep_node=keeps_node,
            keep_http_probes=keeps_probes and number in probes.http,
        )

    # --- binding and connecting on the user's machine -------------------------------------------------------

    async def _find_listener(self, _: LayerConnection, message: FindListener, __: list[int]) -> Reply:
        called = loopback(plain(message.asked))
        listener = best(_alive(self._all_listeners()), called)
        if listener is None:
            raise RequestFailed(errno.ENOENT)
        return Reply(ListenerFound(listener.reached_by(called)))

    async def _claim_port(self, _: LayerConnection, message: ClaimPort, __: list[int]) -> Reply:
        asked = plain(message.asked)
        if asked.port in self._chosen:
            raise RequestFailed(errno.EADDRINUSE)
        if asked.port not in self._claimed:
            claim = claim_port(asked.port)
            if claim is None:
                raise RequestFailed(errno.EADDRINUSE)
            if any(overlap(asked, bound) for bound in listening().values()):
                claim.close()
                raise RequestFailed(errno.EADDRINUSE)
            self._claimed[asked.port] = claim
        return Reply(Done())

    async def _choose_port(self, _: LayerConnection, message: ChoosePort, __: list[int]) -> Reply:
        asked = plain(message.asked)
        port = self._ports.get(asked.port)
        if port is not None and any(not listener.is_moved for listener in _alive(port.listeners.values())):
            raise RequestFailed(errno.EADDRINUSE)
        if asked.port and asked.port not in self._chosen:
            self._chosen[asked.port] = free_port()
        return Reply(PortChosen(place(asked, self._chosen.get(asked.port, 0))))

    def _all_listeners(self) -> list[Listener]:
        return [listener for port in self._ports.values() for listener in port.listeners.values()]

    # --- deliveries -----------------------------------------------------------------------------------------

    async def _contain(self, channel: Channel, message: Accepted) -> None:
        """Never raises but Cancelled: an error that nobody has foreseen ends the one connection that it happened on."""
        try:
            await self._deliver(channel, message)
        except* Exception as group:
            traceback.print_exception(group)
            channel.reset(errno.ECONNRESET)
            self._session.tell_user(
                f"connections to port {message.local.port} of the target were cut off by an error in mirror's proxy; "
                f"please report it with the file that MIRROR_LOG=FILE lets mirror write"
            )

    async def _deliver(self, channel: Channel, message: Accepted) -> None:
        """From Accepted to the end of the connection."""
        called = plain(message.local)
        listener = best(_alive(self._all_listeners()), called)
        ours = None
        if listener is not None:
            with contextlib.suppress(OSError):
                ours = await self._connect(listener.reached_by(called), message)
        if ours is None:
            # Nobody is there (any more): the agent leaves the connection to the target's own process.
            channel.reset(errno.ECONNREFUSED)
            channel.close()
            return
        await carry(ours, channel, drops_answers=not message.steal)

    async def _connect(self, bound: SocketAddress, message: Accepted) -> socket.socket:
        ours = open_socket(family_of(bound))
        try:
            ours.bind(to_python(SocketAddress(self._source(bound), 0)))
            # Before the program can have accepted it.
            self._connections.put(bound, from_python(ours.getsockname()), SocketDescribed(message.local, message.peer))
            number = ours.connect_ex(to_python(bound))
            if number == errno.EINPROGRESS:
                await trio.lowlevel.wait_writable(ours)
                number = ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, "the program's listener")
        except BaseException:
            ours.close()
            raise
        return ours

    def _source(self, bound: SocketAddress) -> bytes:
        """The layer asks about peers with these addresses. IPv6 has only one for loopback."""
        return self.delivery if len(bound.address) == 4 else LOOPBACK_IPV6


def _alive(listeners: Iterable[Listener]) -> list[Listener]:
    """Those that the kernel still has."""
    known = list(listeners)
    places = listening() if known else {}
    return [listener for listener in known if places.get(listener.inode) == listener.bound]
