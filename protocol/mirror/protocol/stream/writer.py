"""Writes what a `Connection` has to send, whole frames in their order, and makes senders wait when it is too much."""

from __future__ import annotations

import trio

from mirror.protocol.connection import Connection
from mirror.protocol.stream.transport import Transport

HIGH_WATER_BYTES = 128 << 10
"""Unsent bytes beyond which senders wait: a request never has more than this, and a socket's buffer, before it."""

HARD_LIMIT_BYTES = 4 << 20
"""Unsent bytes beyond which nothing is read. Only a side that asks and never reads brings it to that."""


class Writer:
    """The sending half of a peer."""

    def __init__(self, connection: Connection, transport: Transport) -> None:
        self._connection = connection
        self._transport = transport
        self._rest = bytearray()
        """What `run` has to write before anything else."""
        self._busy = False
        """Whether `run` is at work, so that nobody else may write."""
        self._corks = 0
        self._closed = False
        self._wake = trio.lowlevel.ParkingLot()
        self._waiting = trio.lowlevel.ParkingLot()

    def flush(self) -> None:
        """Writes what there is to write, as far as that is possible at once; `run` does the rest."""
        if self._busy or self._corks or self._closed or not self._connection.unsent_bytes:
            return
        data = self._connection.data_to_send()
        written_bytes = self._transport.write_now(data)
        if written_bytes < len(data):
            del data[:written_bytes]
            self._rest = data
            self._busy = True
            self._wake.unpark()

    def flush_soon(self) -> None:
        """As `flush`, but once those who run in this round of the scheduler have added what they have.

        One round later, and one system call and one awakening of the other side for all of them.
        """
        if not self._busy:
            self._busy = True
            self._wake.unpark()

    def __enter__(self) -> None:
        """Holds everything back until the block is over: one system call instead of many."""
        self._corks += 1

    def __exit__(self, *_: object) -> None:
        self._corks -= 1
        self.flush()

    async def run(self) -> None:
        """Writes what could not be written at once. Raises ConnectionLost."""
        while True:
            while not self._busy:
                await self._wake.park()
            data, self._rest = self._rest, bytearray()
            data = data or self._connection.data_to_send()
            del data[: self._transport.write_now(data)]
            if data:
                await self._transport.write(data)
            self._busy = self._connection.unsent_bytes > 0
            self._waiting.unpark_all()

    async def wait_for_room(self, limit_bytes: int = HIGH_WATER_BYTES) -> None:
        """Waits while more than `limit_bytes` are unsent and the writer is not closed. No checkpoint otherwise."""
        while self._connection.unsent_bytes > limit_bytes and not self._closed:
            await self._waiting.park()

    async def drain(self, timeout_s: float) -> None:
        """Writes everything, as far as `timeout_s` allows."""
        self.flush()
        with trio.move_on_after(timeout_s):
            while self._busy and not self._closed:
                await self._waiting.park()

    def close(self) -> None:
        """Nothing is written any more, nobody waits."""
        self._closed = True
        self._waiting.unpark_all()

    @property
    def is_between_frames(self) -> bool:
        """Whether what is flushed now would be written right behind a whole frame."""
        return not self._busy
