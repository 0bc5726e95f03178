"""A TCP socket as the relays use it: try first, wait only if the kernel says so.

trio's own stream goes through the scheduler at every call, which costs three times what the system call does; a
relay makes two calls for each piece of a request that passes through the target. So this one yields when it has to
wait, and otherwise once in a while.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

import trio

CHUNK_BYTES = 64 << 10
_EAGER_CALLS = 16
"""How many calls in a row may go without giving other tasks a turn."""
_LINGER_RESET, _LINGER_IN_ORDER = struct.pack("@ii", 1, 0), struct.pack("@ii", 0, 0)
"""struct linger: close(2) sends RST, or FIN after all that was sent (socket(7))."""
_KEEPALIVE_IDLE_S = 60
"""A caller that vanishes without a word is noticed after this and nine unanswered probes."""


class Connection:
    """One non-blocking TCP socket, owned by this object.

    Raises (all methods that do I/O): OSError as the system call; trio.ClosedResourceError after `close` or `reset`.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._eager_calls = 0
        self.is_open = True
        self.has_sent_end = False
        sock.setblocking(False)
        # If this process is killed, the kernel closes the socket, and what was cut off must not look complete.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        # The pieces have come through the kernel once: to hold back small ones again only adds delay.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)

    async def connect(self, address: tuple[str, int] | tuple[str, int, int, int]) -> None:
        """Makes the connection and waits for the outcome, an OSError if it was refused."""
        number = self._socket.connect_ex(address)
        if number == errno.EINPROGRESS:
            # Within one machine the handshake is over when connect returns, and the second call says how it went.
            number = self._socket.connect_ex(address)
            if number in (errno.EALREADY, errno.EINPROGRESS):
                await trio.lowlevel.wait_writable(self._socket)
                number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number not in (0, errno.EISCONN):
            raise OSError(number, os.strerror(number))

    async def receive(self) -> bytes:
        """What has come, at most CHUNK_BYTES; empty: the other side sends no more."""
        while True:
            try:
                data = self._socket.recv(CHUNK_BYTES)
            except BlockingIOError:
                self._eager_calls = 0
                await trio.lowlevel.wait_readable(self._socket)
                continue
            await self._take_turns()
            return data

    async def peek(self) -> bytes:
        """The beginning of what `receive` will give, which stays there."""
        while True:
            try:
                return self._socket.recv(CHUNK_BYTES, socket.MSG_PEEK)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)

    async def send(self, data: bytes) -> None:
        """Sends all of it, at the receiver's pace."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                self._eager_calls = 0
                await trio.lowlevel.wait_writable(self._socket)
        await self._take_turns()

    def send_end(self) -> None:
        """Sends FIN: no more follows in this direction."""
        if not self.has_sent_end:
            self.has_sent_end = True
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Ends the connection in order: what was sent still arrives. Does nothing the second time."""
        if self.is_open:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_IN_ORDER)
            self.reset()

    def reset(self) -> None:
        """Ends the connection with RST, so that the other side learns that something was lost."""
        if self.is_open:
            self.is_open = False
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def _take_turns(self) -> None:
        self._eager_calls += 1
        if self._eager_calls >= _EAGER_CALLS:
            self._eager_calls = 0
            await trio.lowlevel.checkpoint()
