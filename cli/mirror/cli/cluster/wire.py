"""Bytes to and from the API server: a TCP connection, and TLS over one.

Both are read and written by the system calls themselves, and trio is asked only to wait. `TlsWire` stands in for
trio.SSLStream, which gives out 16 KiB with each turn of the scheduler: this takes what the socket has, up to
READ_BYTES, and gives out all of it that is complete.

What is sent goes through one buffer, in the order of the calls, whoever calls. So a reader can answer a ping by `post`,
which never waits: a reader that waits until the other side reads, which waits until it is read from, waits for ever.
"""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from typing import NoReturn

import trio

READ_BYTES = 256 << 10
"""What is read at most at once."""


class Wire(trio.abc.Stream):
    """A TCP connection. It takes over a trio stream's socket. One task may receive at a time, any number may send."""

    ssl_object: ssl.SSLObject | None = None

    def __init__(self, stream: trio.SocketStream) -> None:
        self.socket = stream.socket
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._unsent = bytearray()
        self._sending = trio.Lock()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has come; empty at the end. See trio.abc.ReceiveStream."""
        limit = min(max_bytes or READ_BYTES, READ_BYTES)
        return bytes(self._buffer[: await self.receive_into(self._buffer[:limit])])

    async def receive_into(self, buffer: memoryview) -> int:
        """Waits for bytes and puts them into `buffer`: how many; 0 at the end. Raises trio.BrokenResourceError."""
        await trio.lowlevel.checkpoint_if_cancelled()
        has_waited = False
        try:
            while True:
                self._check_open()
                try:
                    count = os.readv(self.socket.fileno(), [buffer])
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self.socket)
                    has_waited = True
                else:
                    break
        except OSError as error:
            self._raise(error)
        if not has_waited:  # cancelled here, what was read would be lost
            await trio.lowlevel.cancel_shielded_checkpoint()
        return count

    def post(self, data: bytes | bytearray | memoryview) -> None:
        """Sends without waiting: what there is no room for goes later. Failures are for whoever reads or sends next."""
        self._write(data)
        if self._unsent and not self._sending.locked():
            trio.lowlevel.spawn_system_task(self._send_rest)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See trio.abc.SendStream."""
        self._check_open()
        self._write(data)
        try:
            async with self._sending:
                while self._unsent:
                    self._check_open()  # it may have been closed while another task was at it
                    await trio.lowlevel.wait_writable(self.socket)
                    with suppress(BlockingIOError):
                        del self._unsent[: os.write(self.socket.fileno(), self._unsent)]
        except OSError as error:
            self._raise(error)

    @property
    def is_closed(self) -> bool:
        """Whether it was closed here."""
        return self.socket.fileno() == -1

    @property
    def has_room(self) -> bool:
        """Whether nothing waits to be written, so that `post` writes at once what is not too much."""
        return not self._unsent

    async def wait_send_all_might_not_block(self) -> None:
        """See trio.abc.SendStream."""
        try:
            async with self._sending:
                self._check_open()
                await trio.lowlevel.wait_writable(self.socket)
        except OSError as error:
            self._raise(error)

    def close(self) -> None:
        """Closes it at once; whoever waits gets trio.ClosedResourceError."""
        self.socket.close()

    async def aclose(self) -> None:
        """`close`, as a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        """Writes what there is room for, unless something waits before it, and keeps the rest."""
        if not self._unsent:
            with suppress(OSError):
                data = memoryview(data)[os.write(self.socket.fileno(), data) :]
        self._unsent += data

    async def _send_rest(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.send_all(b"")

    def _check_open(self) -> None:
        if self.is_closed:
            raise trio.ClosedResourceError("this connection was already closed")

    def _raise(self, error: OSError) -> NoReturn:
        self._check_open()
        raise trio.BrokenResourceError(error.strerror) from error


class TlsWire(trio.abc.Stream):
    """TLS over another connection, for a client; otherwise as `Wire`.

    Closing it sends no farewell (close_notify): HTTP and WebSocket say themselves where they end.
    """

    def __init__(self, below: Wire | TlsWire, context: ssl.SSLContext, server_name: str | None) -> None:
        self.socket: trio.socket.SocketType = below.socket
        self._below = below
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.ssl_object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self._encrypted = memoryview(bytearray(READ_BYTES))
        self._plain = memoryview(bytearray(READ_BYTES))

    async def do_handshake(self) -> None:
        """Begins. Raises ssl.SSLError, trio.BrokenResourceError."""
        while True:
            try:
                self.ssl_object.do_handshake()
            except ssl.SSLWantReadError:
                await self._below.send_all(self._outgoing.read())
                await self._fill()
            except ssl.SSLError:
                self._below.post(self._outgoing.read())  # tells the other side, which else could only guess
                raise
            else:
                await self._below.send_all(self._outgoing.read())
                return

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has come; empty at the end. See trio.abc.ReceiveStream."""
        limit = min(max_bytes or READ_BYTES, READ_BYTES)
        return bytes(self._plain[: await self.receive_into(self._plain[:limit])])

    async def receive_into(self, buffer: memoryview) -> int:
        """As `Wire.receive_into`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        filled = self._decrypt(buffer)
        if filled is not None:  # cancelled here, it would be lost
            await trio.lowlevel.cancel_shielded_checkpoint()
            return filled
        while True:
            await self._fill()
            filled = self._decrypt(buffer)
            if self._outgoing.pending:  # the answer to a change of keys
                self._below.post(self._outgoing.read())
            if filled is not None:
                return filled

    def post(self, data: bytes | bytearray | memoryview) -> None:
        """As `Wire.post`."""
        with suppress(trio.BrokenResourceError):
            self._below.post(self._encrypt(data))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See trio.abc.SendStream."""
        await self._below.send_all(self._encrypt(data))

    @property
    def has_room(self) -> bool:
        """As `Wire.has_room`."""
        return self._below.has_room

    async def wait_send_all_might_not_block(self) -> None:
        """See trio.abc.SendStream."""
        await self._below.wait_send_all_might_not_block()

    def close(self) -> None:
        """Closes it at once; whoever waits gets trio.ClosedResourceError."""
        self._below.close()

    async def aclose(self) -> None:
        """`close`, as a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self.ssl_object.write(rest) :]
        except ssl.SSLError as error:
            raise trio.BrokenResourceError(reason_of(error)) from error
        return self._outgoing.read()

    def _decrypt(self, buffer: memoryview) -> int | None:
        """How many bytes there are in `buffer`; 0 at the end; None: more must come first."""
        filled = 0
        try:
            while filled < len(buffer):
                # With a buffer it tells how many bytes it has put there; the stubs do not know.
                count: int = self.ssl_object.read(len(buffer) - filled, buffer[filled:])  # type: ignore[assignment]
                if not count:
                    break
                filled += count
        except ssl.SSLWantReadError:
            return filled or None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass  # that it was cut off is up to the protocol above to notice
        except ssl.SSLError as error:
            if not filled:
                raise trio.BrokenResourceError(reason_of(error)) from error
        return filled

    async def _fill(self) -> None:
        count = await self._below.receive_into(self._encrypted)
        if count:
            self._incoming.write(self._encrypted[:count])
        else:
            self._incoming.write_eof()


def reason_of(error: ssl.SSLError) -> str:
    """OpenSSL's words, without its file and line."""
    return (error.reason or str(error)).replace("_", " ").lower()
