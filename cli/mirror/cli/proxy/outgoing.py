"""Outgoing TCP: the program's connecting sockets, and their continuation in the target.

    program's socket ──SYN──▶ stub (drops it) ...    proxy: Connect ──▶ agent: connect() in the target
    program's socket ◀──simultaneous open──  proxy's socket  ◀── Connected
    program's socket ◀──shutdown──           its descriptor  ◀── Failed, whose errno AskOutcome hands out

What the kernel does to a connecting socket (time-outs, signals, polls) is its own affair; here is only how the attempt
ends. Not here: the port (`stub`), carrying bytes (`carry`), the layer's side (layer/native/outgoing.c).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import OrderedDict

import trio

from mirror.cli.proxy import stub
from mirror.cli.proxy.carry import carry
from mirror.cli.proxy.connections import Connections, Session
from mirror.cli.proxy.endpoints import from_python
from mirror.cli.proxy.layers import Handler, LayerConnection, Reply
from mirror.cli.proxy.stub import Stub
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.messages import AskOutcome, Connect, Connected, Message, SocketAddress, SocketDescribed
from mirror.protocol.stream import Channel, Peer, RequestFailed

_SO_COOKIE = getattr(socket, "SO_COOKIE", 57)
"""asm-generic/socket.h; Linux 4.12."""

_MOST_OUTCOMES = 4096
"""Failures that nobody has asked about yet; the oldest goes first."""


class Outgoing:
    """Connects the program's sockets.

    Args:
        session: For the agent, and for tasks.
        connections: Learns the names of connections.

    Raises:
        OSError: The user's machine has no loopback port left.
    """

    def __init__(self, session: Session, connections: Connections) -> None:
        self._session = session
        self._connections = connections
        self._stub = Stub()
        self._failures: OrderedDict[int, int] = OrderedDict()
        """By cookie: the errno."""

    @property
    def stub(self) -> SocketAddress:
        """Where the layer has the program's sockets connect to."""
        return self._stub.address

    def handlers(self) -> dict[type[Message], Handler]:
        """For the layer's messages."""
        return {Connect: self._begin, AskOutcome: self._tell_outcome}

    def close(self) -> None:
        """Gives up the stub's port."""
        self._stub.close()

    async def _begin(self, _: LayerConnection, message: Connect, fds: list[int]) -> None:
        """A notification: the layer waits for nothing."""
        for fd in fds[1:]:
            os.close(fd)
        if fds:
            self._session.start(self._connect, socket.socket(fileno=fds[0]), message)

    async def _tell_outcome(self, _: LayerConnection, message: AskOutcome, __: list[int]) -> Reply:
        raise RequestFailed(self._failures.pop(message.cookie, errno.ENOENT))

    async def _connect(self, program_socket: socket.socket, request: Connect) -> None:
        """From the program's connect() to the end of the connection. Never raises but Cancelled."""
        with program_socket:
            ours_and_channel = await self._establish(program_socket, request)
        if ours_and_channel is not None:
            await carry(*ours_and_channel)

    async def _establish(self, program_socket: socket.socket, request: Connect) -> tuple[socket.socket, Channel] | None:
        channel: Channel | None = None
        try:
            made = await self._ask_agent(program_socket, request)
            if made is not None:
                connected, channel = made
                self._connections.put(
                    from_python(program_socket.getsockname()),
                    self._peer_of(program_socket),
                    SocketDescribed(connected.local, connected.peer),
                )
                ours = await self._stub.complete(program_socket)
                if ours is not None:
                    return ours, channel
                channel.reset()
        except RequestFailed as error:
            self._fail(program_socket, error.errno)
        except ConnectionLost:
            self._fail(program_socket, errno.ENETDOWN)
        except OSError as error:
            self._fail(program_socket, error.errno or errno.ENETDOWN)
        if channel is not None:
            channel.close()
        return None

    async def _ask_agent(self, program_socket: socket.socket, request: Connect) -> tuple[Connected, Channel] | None:
        """None: the program's socket has given up before the target answered."""
        made: tuple[Connected, Channel] | None = None
        failure: BaseException | None = None

        async def give_up_with_program() -> None:
            # A connecting socket becomes ready only by failing: by its own time-out, or because it is disconnected.
            while stub.is_pending(program_socket):
                await trio.lowlevel.wait_readable(program_socket)
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(give_up_with_program)
                made = await self._session.uplink.call(lambda peer: _connect_by(peer, request))
                nursery.cancel_scope.cancel()
        except* (RequestFailed, ConnectionLost, OSError) as group:
            failure = _only(group)
        if failure is not None:  # raised in there, Python 3.11.2 would wrap it into a group again
            raise failure from None
        return made

    def _peer_of(self, program_socket: socket.socket) -> SocketAddress:
        """What getpeername will say once the connection is established: getpeername refuses before."""
        is_ipv4 = len(from_python(program_socket.getsockname()).address) == 4
        return self._stub.address if is_ipv4 else self._stub.address_ipv6

    def _fail(self, program_socket: socket.socket, number: int) -> None:
        try:
            (cookie,) = struct.unpack("=Q", program_socket.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))
            self._failures[cookie] = number
            if len(self._failures) > _MOST_OUTCOMES:
                self._failures.popitem(last=False)
            stub.fail(program_socket)
        except OSError:
            pass  # not a TCP socket: no program of ours sent it


async def _connect_by(peer: Peer, request: Connect) -> tuple[Connected, Channel]:
    """The connection in the target, and the channel of its bytes."""
    channel = peer.open_channel()
    try:
        return await peer.request(Connect(channel.id, request.endpoint, request.bind), Connected), channel
    except BaseException:
        channel.reset()
        channel.close()
        raise


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One of the errors of a group whose errors mean the same."""
    first = group.exceptions[0]
    return _only(first) if isinstance(first, BaseExceptionGroup) else first
