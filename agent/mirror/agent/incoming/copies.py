"""Copies of passed-on connections for those who mirror a port.

The target's own process must not notice that somebody listens in: putting a piece into a copy never waits. A
subscriber that does not keep up has up to QUEUE_BYTES waiting for it; beyond that its copy of this connection, and
only that, ends with a reset and a notice, because a stream with a hole in it is worth nothing.
"""

from __future__ import annotations

import collections
import errno

import trio

from mirror.agent.incoming.owner import Channel, Owner
from mirror.protocol.messages import Accepted
from mirror.protocol.stream import ChannelReset, ConnectionLost

QUEUE_BYTES = 4 << 20
"""Of one copy. Beside it the channel's window is on the way."""


class Copy:
    """One subscriber's copy of what one caller sends. `put`, `put_end`, `put_reset` never wait; `run` delivers."""

    def __init__(self, owner: Owner, accepted: Accepted) -> None:
        self.owner = owner
        self._accepted = accepted
        self._pieces: collections.deque[bytes] = collections.deque()
        self._size_bytes = 0
        self._more = trio.Event()
        self._ended = False
        self._reset_errno: int | None = None
        self._has_overflowed = False
        self._delivery = trio.CancelScope()

    def put(self, piece: bytes) -> None:
        """The caller has sent this."""
        if self._ended or self._reset_errno is not None:
            return
        self._pieces.append(piece)
        self._size_bytes += len(piece)
        if self._size_bytes > QUEUE_BYTES:
            self._has_overflowed = True
            self.stop(errno.ENOBUFS)
        self._more.set()

    def put_end(self) -> None:
        """The caller sends no more."""
        self._ended = True
        self._more.set()

    def put_reset(self, number: int) -> None:
        """The connection was reset, or is no longer copied (0). After its end that changes nothing."""
        if not self._ended:
            self.stop(number)

    def stop(self, number: int) -> None:
        """Nothing more is delivered."""
        if self._reset_errno is None:
            self._reset_errno = number
            self._pieces.clear()
            self._size_bytes = 0
            self._delivery.cancel()

    async def run(self) -> None:
        """Delivers until the connection or the subscriber has ended."""
        with self._delivery:
            channel = await self._owner_channel()
            if channel is None:
                return
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._feed, channel)
                    await _discard(channel)
            except* (ChannelReset, ConnectionLost):
                self.stop(0)
            finally:
                if self._reset_errno is not None:
                    channel.reset(self._reset_errno)
                with trio.CancelScope(shield=True):
                    await channel.aclose()
        if self._has_overflowed:
            await self.owner.notice(
                f"a mirrored connection to port {self._accepted.local.port} was cut off: the program reads more slowly"
                f" than the caller sends ({QUEUE_BYTES >> 20} MiB were waiting); the target has received everything"
            )

    async def _owner_channel(self) -> Channel | None:
        channel = await self.owner.deliver(self._accepted)
        if channel is None:
            self.stop(0)
        return channel

    async def _feed(self, channel: Channel) -> None:
        while not (self._ended and not self._pieces):
            if not self._pieces:
                self._more = trio.Event()
                await self._more.wait()
                continue
            piece = self._pieces.popleft()
            self._size_bytes -= len(piece)
            await channel.send(piece)
        await channel.send_eof()


async def _discard(channel: Channel) -> None:
    """What the program answers goes nowhere; it is taken all the same, so that the program is not held up."""
    while await channel.receive(1 << 16):
        pass
