"""Bytes between a socket of the user's machine and a channel to the agent.

As a router would do it: each direction ends by itself, what breaks on one side breaks on the other (RST for RST), and
nothing is read that cannot be passed on, so that a slow reader slows down its writer and nobody else. A stream that
was cut off, also by the loss of the agent, never looks like one that ended.
"""

from __future__ import annotations

import errno
import socket
import struct

import trio

from mirror.protocol.connection import ConnectionLost
from mirror.protocol.stream import Channel, ChannelReset

_READ_BYTES = 64 << 10
_LINGER_RST = struct.pack("@ii", 1, 0)
"""struct linger: close(2) sends RST (socket(7))."""
_LINGER_OFF = struct.pack("@ii", 0, 0)


def open_socket(family: socket.AddressFamily) -> socket.socket:
    """A TCP socket for the other end of a program's connection, non-blocking.

    Its peer gets ECONNRESET when it is closed, also by the death of this process, until `carry` has seen both
    directions end: from the beginning, since the program may go on before anything happens here.
    """
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RST)
    return made


async def carry(connected: socket.socket, channel: Channel, *, drops_answers: bool = False) -> None:
    """Carries until both directions have ended or one side breaks; closes both. Never raises but Cancelled.

    Args:
        connected: What `open_socket` gave, connected.
        channel: Its continuation in the target.
        drops_answers: Whether what the socket sends is thrown away instead.
    """
    carriage = _Carriage(connected, channel)
    try:
        async with trio.open_nursery() as nursery:
            carriage.scope = nursery.cancel_scope
            nursery.start_soon(carriage.from_channel)
            nursery.start_soon(carriage.drop if drops_answers else carriage.to_channel)
        if not carriage.is_broken:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
    finally:
        connected.close()
        channel.close()


class _Carriage:
    def __init__(self, connected: socket.socket, channel: Channel) -> None:
        self.is_broken = False
        self.scope = trio.CancelScope()
        self._socket = connected
        self._channel = channel

    async def from_channel(self) -> None:
        try:
            while data := await self._channel.receive(_READ_BYTES):
                rest = memoryview(data)
                while rest:
                    try:
                        rest = rest[self._socket.send(rest) :]
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(self._socket)
            self._socket.shutdown(socket.SHUT_WR)
        except (ChannelReset, ConnectionLost):
            self._break()
        except OSError as error:
            self._socket_broke(error)

    async def to_channel(self) -> None:
        try:
            while data := await self._receive():
                await self._channel.send(data)
            await self._channel.send_eof()
        except (ChannelReset, ConnectionLost):
            self._break()
        except OSError as error:
            self._socket_broke(error)

    async def drop(self) -> None:
        """A copy of a connection: what the program answers goes nowhere, and it may end whenever it likes."""
        try:
            while await self._receive():
                await trio.lowlevel.checkpoint()
            await self._channel.send_eof()
        except (ChannelReset, ConnectionLost):
            self._break()
        except OSError as error:
            self._socket_broke(error)

    async def _receive(self) -> bytes:
        while True:
            try:
                return self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)

    def _socket_broke(self, error: OSError) -> None:
        # EPIPE and ENOTCONN are what is left to see of a reset that the other direction has met.
        gone = error.errno in (errno.EPIPE, errno.ENOTCONN, None)
        self._channel.reset(errno.ECONNRESET if gone or error.errno is None else error.errno)
        self._break()

    def _break(self) -> None:
        self.is_broken = True
        self.scope.cancel()
