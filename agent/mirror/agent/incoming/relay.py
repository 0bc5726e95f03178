"""What happens with one intercepted connection: handed to a client (`steal`), or to the target's process (`pass_on`).

Both keep TCP's own manners: half-close is passed on as half-close, RST as RST, and whoever reads slowly slows only
the one who sends to him. Neither ends in an exception for what the two ends did.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from mirror.agent.incoming.connection import CHUNK_BYTES, Connection
from mirror.agent.incoming.copies import Copy
from mirror.agent.incoming.owner import Channel
from mirror.protocol.stream import ChannelReset, ConnectionLost

E = TypeVar("E", bound=BaseException)

_REFUSABLE_BYTES = 256 << 10
"""How much of what the caller sends is kept until the client shows that it has taken the connection.

As large as a channel's first window: a client that has let more come has taken it.
"""


class Unanswered:
    """What a caller has sent while nobody has answered yet, in case somebody else has to.

    Attributes:
        ended: The caller has sent its end of data.
    """

    def __init__(self) -> None:
        self.ended = False
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._is_complete = True

    def add(self, piece: bytes) -> None:
        """The caller has sent this."""
        self._size_bytes += len(piece)
        if self._is_complete:
            self._pieces.append(piece)
        if self._size_bytes > _REFUSABLE_BYTES:
            self.forget()

    def forget(self) -> None:
        """Somebody has answered."""
        self._is_complete = False
        self._pieces.clear()

    def everything(self) -> list[bytes] | None:
        """All that the caller has sent; None if it can no longer be told."""
        return self._pieces if self._is_complete else None


async def steal(caller: Connection, channel: Channel, copies: Sequence[Copy]) -> Unanswered | None:
    """Joins the caller with the channel until both have ended.

    Returns:
        None when the connection is over. If the client refused it (a reset with ECONNREFUSED before it sent
        anything), what the caller has sent so far: the caller is still there, and somebody else is to answer.
    """
    unanswered = Unanswered()
    refusal: ChannelReset | None = None
    number: int | None = None

    async def to_client() -> None:
        while piece := await caller.receive():
            unanswered.add(piece)
            for copy in copies:
                copy.put(piece)
            await channel.send(piece)
        unanswered.ended = True
        for copy in copies:
            copy.put_end()
        await channel.send_eof()

    async def to_caller() -> None:
        while piece := await channel.receive(CHUNK_BYTES):
            unanswered.forget()
            await caller.send(piece)
        caller.send_end()

    try:
        await _both(to_client, to_caller)
    except* ChannelReset as group:
        refusal = _first(group)
    except* ConnectionLost:
        number = 0
    except* OSError as group:
        number = _first(group).errno or errno.ECONNRESET
    finally:
        if number is not None:
            channel.reset(number)
        with trio.CancelScope(shield=True):
            await channel.aclose()
    if refusal is not None and refusal.errno == errno.ECONNREFUSED and unanswered.everything() is not None:
        return unanswered
    _finish(caller, copies, failed=refusal is not None or number is not None)
    return None


async def pass_on(
    caller: Connection, process: Connection, copies: Sequence[Copy], earlier: Unanswered | None = None
) -> None:
    """Joins the caller with the target's own process until both have ended, copying what the caller sends.

    Args:
        caller: Whoever connected to the target.
        process: The connection to the target's own process.
        copies: Who gets a copy of what the caller sends.
        earlier: What the caller has sent before; the copies have had it.
    """

    async def to_process() -> None:
        if earlier is not None:
            for piece in earlier.everything() or ():
                await process.send(piece)
            earlier.forget()
            if earlier.ended:
                process.send_end()
                return
        while piece := await caller.receive():
            for copy in copies:
                copy.put(piece)
            await process.send(piece)
        for copy in copies:
            copy.put_end()
        process.send_end()

    async def to_caller() -> None:
        while piece := await process.receive():
            await caller.send(piece)
        caller.send_end()

    failed = False
    try:
        await _both(to_process, to_caller)
    except* OSError:
        failed = True
    _finish(process, (), failed=failed)
    _finish(caller, copies, failed=failed)


async def _both(one: Callable[[], Awaitable[None]], other: Callable[[], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        await other()  # a task less for each connection


def _finish(connection: Connection, copies: Sequence[Copy], *, failed: bool) -> None:
    if failed:
        connection.reset()
        for copy in copies:
            copy.put_reset(errno.ECONNRESET)
    else:
        connection.close()


def _first(group: BaseExceptionGroup[E]) -> E:
    """One of the errors in a group; both directions of a connection fail for the same reason."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error  # type: ignore[return-value]
