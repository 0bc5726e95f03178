"""One byte stream of many: what its owner calls, and what the peer tells it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

import trio

from mirror.protocol.connection import Connection, ConnectionLost
from mirror.protocol.stream.writer import Writer


class ChannelReset(Exception):
    """The other side has ended the channel both ways, or this side has closed it."""

    def __init__(self, errno: int = 0) -> None:
        super().__init__(os.strerror(errno) if errno else "the other side has closed the channel")
        self.errno = errno
        """ECONNRESET and the like where a socket failed over there, 0 where nobody is interested any more."""


class Channel:
    """A byte stream to the other side, both ways, each of which ends by itself. Made by `Peer`.

    One task may send and one receive at a time (trio.BusyResourceError otherwise).
    """

    def __init__(self, channel_id: int, connection: Connection, writer: Writer, leave: Callable[[int], None]) -> None:
        self.id = channel_id
        self.is_taken = False
        """Whether it has an owner; the peer's affair."""
        self._connection = connection
        self._writer = writer
        self._leave = leave
        """Tells the peer that the owner has gone."""
        self._received: deque[bytes | memoryview] = deque()
        self._ended = False
        """EndOfData has come."""
        self._sent_end = False
        self._gone: ChannelReset | ConnectionLost | None = None
        """Why nothing goes any more."""
        self._receiver: trio.lowlevel.Task | None = None
        self._sender: trio.lowlevel.Task | None = None
        self._sending = False

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Sends all of `data`; waits until the other side is ready to hold it. Empty data sends nothing.

        Raises:
            ChannelReset: The channel is gone. How much arrived is not known.
            ConnectionLost: The connection is gone.
        """
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this channel")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            rest = memoryview(data)
            while rest:
                await self._writer.wait_for_room()
                self._raise_if_gone()
                sent_bytes = self._connection.send_data(self.id, rest)
                if sent_bytes:
                    self._writer.flush()
                    rest = rest[sent_bytes:]
                else:
                    self._sender = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._forget_sender)
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """Tells the other side that no more comes; receiving goes on. A second call does nothing.

        Raises:
            ChannelReset: The channel is gone.
            ConnectionLost: The connection is gone.
        """
        await trio.lowlevel.checkpoint()
        if self._sent_end:
            return
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this channel")
        self._raise_if_gone()
        self._sent_end = True
        self._connection.send_end(self.id)
        self._writer.flush()

    async def receive(self, max_bytes: int = 64 << 10) -> bytes:
        """The next bytes, at most `max_bytes`; waits for the first. Empty: the other side sends no more.

        Raises:
            ChannelReset: The channel is gone, and what came before has been received.
            ConnectionLost: The connection is gone, likewise.
        """
        if self._receiver is not None:
            raise trio.BusyResourceError("another task is receiving from this channel")
        if self._received or self._ended or self._gone:
            await trio.lowlevel.checkpoint()
        else:
            self._receiver = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._forget_receiver)
        if self._received:
            data = self._take(max_bytes)
            self._connection.acknowledge(self.id, len(data))
            self._writer.flush()
            return data
        if not self._ended:
            self._raise_if_gone()
        return b""

    def reset(self, errno: int = 0) -> None:
        """Ends both directions at once and tells the other side why; does nothing if the channel is gone."""
        if self._gone is None:
            self._connection.reset(self.id, errno)
            self._writer.flush()
        self._give_up()

    def close(self) -> None:
        """Gives the channel up; to be called in the end in any case.

        If `send_eof` was called and all that came was received, what is on its way still arrives; else it is a
        reset. No other task may use the channel any more: those that wait get ChannelReset.
        """
        if self._gone is None:
            self._connection.abandon_channel(self.id)
            self._writer.flush()
        self._give_up()

    async def aclose(self) -> None:
        """`close`, as a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    # --- what the peer tells ------------------------------------------------------------------------------

    def on_data(self, payload: bytes) -> None:
        """Bytes have come."""
        self._received.append(payload)
        self._wake_receiver()

    def on_credit(self) -> None:
        """More may be sent."""
        if self._sender is not None:
            sender, self._sender = self._sender, None
            trio.lowlevel.reschedule(sender)

    def on_end(self) -> None:
        """No more bytes will come."""
        self._ended = True
        self._wake_receiver()

    def on_gone(self, reason: ChannelReset | ConnectionLost) -> None:
        """Nothing goes any more; the first reason counts."""
        if self._gone is None:
            self._gone = reason
        self._wake_receiver()
        self.on_credit()

    # --- inside -------------------------------------------------------------------------------------------

    def _give_up(self) -> None:
        self._leave(self.id)
        self._received.clear()
        self.on_gone(ChannelReset())

    def _take(self, max_bytes: int) -> bytes:
        """Takes out up to `max_bytes`, at least one; without a copy where a whole payload is asked for."""
        first = self._received.popleft()
        if len(first) <= max_bytes and (not self._received or len(first) + len(self._received[0]) > max_bytes):
            return bytes(first)
        taken, room = [], max_bytes
        chunk: bytes | memoryview | None = first
        while chunk is not None:
            taken.append(chunk[:room])
            if len(chunk) > room:
                self._received.appendleft(memoryview(chunk)[room:])
                break
            room -= len(chunk)
            chunk = self._received.popleft() if self._received and room else None
        return b"".join(taken)

    def _wake_receiver(self) -> None:
        if self._receiver is not None:
            receiver, self._receiver = self._receiver, None
            trio.lowlevel.reschedule(receiver)

    def _forget_receiver(self, _: object) -> trio.lowlevel.Abort:
        self._receiver = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _forget_sender(self, _: object) -> trio.lowlevel.Abort:
        self._sender = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _raise_if_gone(self) -> None:
        match self._gone:
            case ChannelReset(errno=number):
                raise ChannelReset(number)
            case ConnectionLost() as lost:
                raise type(lost)(*lost.args)
