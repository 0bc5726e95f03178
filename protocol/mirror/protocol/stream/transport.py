"""Bytes in and out of a trio stream; whatever goes wrong is a ConnectionLost with a sentence.

A socket is read and written by the system calls themselves, and trio is asked only to wait: trio's own methods go
through the scheduler for each call (measured for one hop: 97 µs against 136).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

import trio

from mirror.protocol.connection import ConnectionLost

READ_BYTES = 128 << 10


class Transport(Protocol):
    """What `Peer` needs of a stream."""

    def write_now(self, data: bytearray) -> int:
        """How many bytes could be written without waiting. 0 may also mean that `write` knows better."""
        ...

    async def write(self, data: bytearray) -> None:
        """Writes all of it. Raises ConnectionLost."""
        ...

    async def read(self) -> bytes:
        """What has come, at most READ_BYTES; waits for it. Empty: the stream has ended. Raises ConnectionLost."""
        ...

    async def close(self) -> None:
        """Closes the stream without waiting for anything."""
        ...


def transport_of(stream: trio.abc.Stream, other: str) -> Transport:
    """The best transport for a stream.

    Args:
        stream: It belongs to the transport from here on.
        other: Who is at its other end, for the sentence: `agent` or `client`.
    """
    return _SocketTransport(stream, other) if isinstance(stream, trio.SocketStream) else _AnyTransport(stream, other)


class _AnyTransport:
    """By the methods that every trio stream has, and by `write_now` of one that has that too."""

    def __init__(self, stream: trio.abc.Stream, other: str) -> None:
        self._stream = stream
        self._other = other
        self._write_now: Callable[[bytearray], int] | None = getattr(stream, "write_now", None)

    def write_now(self, data: bytearray) -> int:
        return self._write_now(data) if self._write_now else 0

    async def write(self, data: bytearray) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _lost(self._other, error) from None

    async def read(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _lost(self._other, error) from None

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)


class _SocketTransport:
    """By read(2) and write(2) on the socket, which trio has made non-blocking."""

    def __init__(self, stream: trio.SocketStream, other: str) -> None:
        self._stream = stream
        self._socket = stream.socket
        self._other = other

    def write_now(self, data: bytearray) -> int:
        try:
            return os.write(self._socket.fileno(), data)
        except OSError:
            return 0

    async def write(self, data: bytearray) -> None:
        written_bytes = 0
        try:
            with memoryview(data) as view:
                while written_bytes < len(view):
                    await trio.lowlevel.wait_writable(self._socket)
                    try:
                        written_bytes += os.write(self._socket.fileno(), view[written_bytes:])
                    except BlockingIOError:
                        continue
        except (OSError, trio.ClosedResourceError) as error:
            raise _lost(self._other, error) from None

    async def read(self) -> bytes:
        try:
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                try:
                    return os.read(self._socket.fileno(), READ_BYTES)
                except BlockingIOError:
                    continue
        except (OSError, trio.ClosedResourceError) as error:
            raise _lost(self._other, error) from None

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)


def _lost(other: str, error: Exception) -> ConnectionLost:
    """The sentence about a failed system call, also where trio has wrapped it."""
    cause = error.__cause__ or error
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause) or type(cause).__name__
    return ConnectionLost(f"the connection to the {other} is lost: {text}")
