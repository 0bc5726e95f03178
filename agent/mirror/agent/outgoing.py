"""TCP connections from the target to anywhere: connecting, and carrying bytes between the socket and a channel.

The worker makes the socket (it then belongs to the target's network and user); it is connected and used here, where
waiting costs nothing. Each direction ends by itself, and a connection that breaks on one side breaks on the
other: end of stream for end of stream, RST for RST.
"""

from __future__ import annotations

import errno
import socket
import struct

import trio

from mirror.agent.sockets import from_python, to_python
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.messages import Connect, Connected
from mirror.protocol.stream import Channel, ChannelReset, RequestFailed

_READ_BYTES = 64 << 10
_LINGER_RST = struct.pack("@ii", 1, 0)
"""struct linger: close(2) sends RST (socket(7))."""


async def connect(made: socket.socket, request: Connect) -> Connected:
    """Connects a socket of the worker's.

    Raises:
        RequestFailed: As connect(2) fails in the target.
    """
    made.setblocking(False)
    try:
        # The program's own socket decides what to send when; here nothing must wait for more.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = made.connect_ex(to_python(request.endpoint))
        if number == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(made)
            number = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise RequestFailed(number)
        return Connected(local=from_python(made.getsockname()), peer=from_python(made.getpeername()))
    except OSError as error:
        raise RequestFailed(error.errno or errno.EIO) from None


async def carry(connected: socket.socket, channel: Channel) -> None:
    """Carries bytes both ways until both directions have ended or one side breaks; closes both."""
    with connected:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_carry_out, connected, channel)
                nursery.start_soon(_carry_in, connected, channel)
        except* ChannelReset:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RST)
        except* ConnectionLost:
            pass  # as if the program had been killed: what was sent arrives, then the end
        except* OSError as errors:
            channel.reset(_first_errno(errors))
        except* Exception:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RST)
            raise
        finally:
            channel.close()


async def _carry_out(connected: socket.socket, channel: Channel) -> None:
    """From the channel to the socket."""
    while data := await channel.receive(_READ_BYTES):
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[connected.send(rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(connected)
    connected.shutdown(socket.SHUT_WR)


async def _carry_in(connected: socket.socket, channel: Channel) -> None:
    """From the socket to the channel."""
    while True:
        try:
            data = connected.recv(_READ_BYTES)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(connected)
            continue
        if not data:
            break
        await channel.send(data)
    await channel.send_eof()


def _first_errno(group: BaseExceptionGroup[OSError]) -> int:
    """The errno of any one of the errors."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first_errno(error)
        if error.errno:
            return error.errno
    return errno.ECONNRESET
