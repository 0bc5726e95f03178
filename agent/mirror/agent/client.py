"""One client of the agent: its requests, its channels, and putting everything back when it goes.

Requests about files, names and sockets are passed to the worker as they came. What runs longer than its request
(the bytes of a connection, the rest of a file) runs in the client's own nursery and ends with it.
Which clients there are is `main`'s affair; what incoming traffic means for a client, that of `incoming`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import trio

from mirror.agent import environment, outgoing
from mirror.agent.entry import Ready
from mirror.agent.incoming import Incoming
from mirror.agent.target import Target
from mirror.agent.worker import Worker
from mirror.protocol import messages as m
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.features import FEATURES
from mirror.protocol.stream import Channel, ChannelReset, Peer, RequestFailed

_READ_BYTES = 256 << 10
"""Of a long file at a time: each costs a change of threads and back."""

_LONG_READS = 16
"""Threads that may be reading long files at a time, over all clients."""


_LOG = logging.getLogger(__name__)


class Client:
    """A client's session.

    Args:
        stream: The connection to it.
        target: The process it wants to stand in for.
        worker: Shared by all clients.
        incoming: Shared by all clients; None where incoming traffic cannot be had, as `reasons` says.
        ready: What the worker found.
        reasons: For each capability that is missing, a sentence.
        ends_with_target: Whether nothing is answered once the target has ended: the client is about to be told so.

    Attributes:
        user: Who it is, for others; empty: that is not known.
        session: What all its connections have in common; empty: it has no other, or that is not known.
        is_alone: Set once its former connection is over; until then it gets no traffic.
        is_over: Set once everything that it had is put back.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        target: Target,
        worker: Worker,
        incoming: Incoming | None,
        ready: Ready,
        reasons: Mapping[str, str],
        *,
        ends_with_target: bool,
    ) -> None:
        self.user = self.session = ""
        self.is_alone = trio.Event()
        self.is_over = trio.Event()
        self._target = target
        self._worker = worker
        self._incoming = incoming
        self._ready = ready
        self._reasons = reasons
        self._ends_with_target = ends_with_target
        self._tasks: trio.Nursery
        self._peer = Peer(
            stream,
            is_client=False,
            handler=self._handle,
            capabilities=[capability for capability in FEATURES if capability not in reasons],
            reasons=reasons,
        )

    async def serve(self) -> None:
        """Serves until the connection ends.

        Raises:
            ConnectionLost: The client said goodbye or went away.
            RemoteProtocolError: It broke the protocol.
        """
        async with trio.open_nursery() as self._tasks:
            try:
                await self._peer.run()
            finally:
                self._tasks.cancel_scope.cancel()
                if self._incoming is not None:
                    with trio.CancelScope(shield=True):
                        await self._incoming.close(self)

    async def introduction(self) -> m.Hello:
        """How it has introduced itself. Raises ConnectionLost."""
        hello = await self._peer.handshake()
        assert isinstance(hello, m.Hello)
        return hello

    async def end(self, reason: str, *, is_targets_end: bool = False) -> None:
        """Says goodbye; `serve` then returns."""
        await self._peer.aclose(reason, is_targets_end=is_targets_end)

    async def send_away(self, reason: str, is_targets_end: bool) -> None:
        """Lets it introduce itself and says goodbye. Never raises."""
        with contextlib.suppress(ConnectionLost):
            await self._peer.handshake()
            await self._peer.aclose(reason, is_targets_end=is_targets_end)

    async def notice(self, text: str) -> None:
        """Has the user read a sentence. Never raises: a lost connection needs no notices."""
        try:
            await self._peer.handshake()
            await self._peer.notify(m.Notice(text))
        except ConnectionLost:
            pass

    async def deliver(self, accepted: m.Accepted) -> Channel | None:
        """Announces a connection to a subscribed port.

        Returns:
            The channel of its bytes; None if the client is gone, or has as many channels as there may be.
        """
        try:
            channel = self._peer.open_channel()
        except (ConnectionLost, RequestFailed):
            return None
        try:
            await self._peer.notify(msgspec.structs.replace(accepted, channel=channel.id))
        except ConnectionLost:
            channel.close()
            return None
        return channel

    async def _handle(self, request: m.Message) -> m.Message | None:
        try:
            answer = await self._carry_out(request)
        except RequestFailed:
            await self._until_told()
            raise
        await self._until_told()
        return answer

    async def _until_told(self) -> None:
        """Does not return if the target has ended: what was found may be of what is left of it."""
        if self._ends_with_target and self._target.has_ended:
            await trio.sleep_forever()

    async def _carry_out(self, request: m.Message) -> m.Message | None:
        match request:
            case m.OpenFile():
                return await self._open_file(request)
            case m.Connect():
                return await self._connect(request)
            case m.ReadEnvironment():
                if "environment" in self._reasons:
                    raise RequestFailed(errno.EOPNOTSUPP, self._reasons["environment"])
                return await self._read_environment()
            case m.Subscribe():
                if self._incoming is None:
                    raise RequestFailed(errno.EOPNOTSUPP, self._reasons["incoming"])
                self.user = (await self.introduction()).user
                await self.is_alone.wait()
                await self._incoming.subscribe(self, request)
                return m.Done()
            case m.Unsubscribe():
                if self._incoming is not None:
                    await self._incoming.unsubscribe(self, request.port)
                return m.Done()
            case m.Notice():
                return None
            case (
                m.StatFile()
                | m.CheckAccess()
                | m.ReadLink()
                | m.ResolvePath()
                | m.StatFilesystem()
                | m.LookUpAddress()
                | m.LookUpHost()
                | m.LookUpHostByAddress()
                | m.LookUpName()
            ):
                answer, _ = await self._worker.ask(request)
                return answer
            case _:
                raise RequestFailed(errno.ENOSYS, f"mirror's agent does not know {type(request).__name__}")

    async def _read_environment(self) -> m.EnvironmentRead:
        try:
            found = await trio.to_thread.run_sync(environment.read_environment, self._target, abandon_on_cancel=True)
        except OSError as error:
            raise RequestFailed(
                error.errno or errno.EIO, f"the environment of process {self._target.pid} cannot be read"
            ) from None
        return m.EnvironmentRead(found.variables, self._ready.host_name, self._ready.domain_name)

    async def _open_file(self, request: m.OpenFile) -> m.FileOpened:
        answer, fd = await self._worker.ask(request)
        assert isinstance(answer, m.FileOpened)
        if fd is None:
            return answer
        if not request.channel:
            os.close(fd)
            raise RequestFailed(errno.EINVAL, "a long file was asked for without a channel for its rest")
        channel = self._peer.accept_channel(request.channel)
        room_bytes = request.limit_bytes - len(answer.content) if _is_regular(answer) else None
        self._start(_send_rest, fd, channel, room_bytes)
        return answer

    async def _connect(self, request: m.Connect) -> m.Connected:
        if not request.channel:
            raise RequestFailed(errno.EINVAL, "a connection was asked for without a channel")
        channel = self._peer.accept_channel(request.channel)
        _, fd = await self._worker.ask(request)
        assert fd is not None
        made = socket.socket(fileno=fd)
        try:
            connected = await outgoing.connect(made, request)
        except BaseException:
            made.close()
            raise
        self._start(outgoing.carry, made, channel)
        return connected

    def _start(self, carrying: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Runs what belongs to one channel, until the client is gone at the latest. Its errors end only that."""
        self._tasks.start_soon(self._contain, carrying, *arguments)

    async def _contain(self, carrying: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        try:
            await carrying(*arguments)
        except* Exception as group:
            _LOG.error("%s failed", carrying.__name__, exc_info=group)
            await self.notice(
                "a connection or a file of the target was cut off by an error in mirror's agent; please report it with"
                " the file that MIRROR_LOG=FILE lets mirror write"
            )


_long_reads = trio.CapacityLimiter(_LONG_READS)


def _is_regular(opened: m.FileOpened) -> bool:
    return opened.stat.mode & 0o170000 == 0o100000


async def _send_rest(fd: int, channel: Channel, room_bytes: int | None) -> None:
    """Sends what is left to read of `fd`, and closes it.

    Args:
        fd: A file, read up to where the answer's content ends.
        channel: Where to.
        room_bytes: How much the client takes at most (the file may have grown); None: any amount.
    """
    reading = _Reading(fd)
    try:
        while part := await trio.to_thread.run_sync(reading.next_part, abandon_on_cancel=True, limiter=_long_reads):
            if room_bytes is not None:
                room_bytes -= len(part)
                if room_bytes < 0:
                    channel.reset(errno.EFBIG)
                    return
            await channel.send(part)
        await channel.send_eof()
    except OSError as error:
        channel.reset(error.errno or errno.EIO)
    except (ChannelReset, ConnectionLost):
        pass  # nobody wants the rest
    finally:
        channel.close()
        reading.give_up()


class _Reading:
    """A descriptor that threads read and that is closed once no thread is in the middle of that.

    A read from a hanging file system cannot be called off; its thread then closes the descriptor, whenever that is.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._is_reading = False
        self._is_given_up = False

    def next_part(self) -> bytes:
        """The next bytes, empty at the end. Blocks. Raises OSError as read(2)."""
        with self._lock:
            if self._is_given_up:
                return b""
            self._is_reading = True
        try:
            return os.read(self._fd, _READ_BYTES)
        except BlockingIOError:  # a file of the kernel that has no more at present
            return b""
        finally:
            with self._lock:
                self._is_reading = False
                if self._is_given_up:
                    os.close(self._fd)

    def give_up(self) -> None:
        """To be called once, in the end."""
        with self._lock:
            self._is_given_up = True
            if not self._is_reading:
                os.close(self._fd)
