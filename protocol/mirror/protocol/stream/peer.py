"""The other side of a connection: requests, notifications and channels to and from it, until it ends."""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NoReturn, TypeVar, overload

import outcome
import trio

from mirror.protocol import events as e
from mirror.protocol import messages as m
from mirror.protocol.answers import channel_begun
from mirror.protocol.channels import MAX_CHANNELS
from mirror.protocol.connection import Connection, ConnectionLost, TargetEnded
from mirror.protocol.frame import ProtocolError, RemoteProtocolError
from mirror.protocol.heartbeat import TICK_S
from mirror.protocol.stream.channel import Channel, ChannelReset
from mirror.protocol.stream.transport import transport_of
from mirror.protocol.stream.writer import HARD_LIMIT_BYTES, Writer

FAREWELL_S = 1.0
"""How long a Goodbye may take to be written or, once writing has failed, to be read."""

MAX_WAITING_NOTIFICATIONS = MAX_CHANNELS + 1024
"""Notifications that the handler has not got to; more are an attack."""

_LOG = logging.getLogger(__name__)
_CLOSED = "the connection has been closed"

Handler = Callable[[m.Message], Awaitable[m.Message | None]]
"""Carries out a request of the other side and returns its answer, or raises RequestFailed. Gets notifications too."""

_M = TypeVar("_M", bound=m.Message)


class RequestFailed(Exception):
    """The other side could not do what it was asked (`request` raises it; a handler raises it to say so)."""

    def __init__(self, errno: int, reason: str = "") -> None:
        super().__init__(reason or os.strerror(errno))
        self.errno = errno
        """As the call in the target set it."""
        self.reason = reason
        """One sentence for the user, empty when errno says it all."""


class Peer:
    """The other side of a connection.

    Args:
        stream: Any trio stream; a SocketStream is the fastest. It belongs to the peer from here on.
        is_client: True for the proxy, False for the agent.
        handler: Called for each request (in a task of its own) and each notification (one after the other, so
            it should be quick) of the other side. A channel that a message begins is to be taken by
            `accept_channel` before the handler returns; else it is reset.
        capabilities: What this side can do, for the introduction.
        reasons: The agent's sentences on the capabilities that are missing.
        user: Who the client is, `anna@laptop`, for other users of the same agent to read.
        session: As in `Hello`.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        is_client: bool,
        handler: Handler,
        capabilities: Sequence[str] = (),
        reasons: Mapping[str, str] | None = None,
        user: str = "",
        session: str = "",
    ) -> None:
        self.connection = Connection(
            is_client=is_client, capabilities=capabilities, reasons=reasons, user=user, session=session
        )
        self.requests_sent: Counter[str] = Counter()
        """How many requests of each kind (`OpenFile`, ...) this side has sent: one round trip each."""
        self._other = "agent" if is_client else "client"
        self._transport = transport_of(stream, self._other)
        self._writer = Writer(self.connection, self._transport)
        self._handler = handler
        self._introduction: m.Hello | m.Welcome | None = None
        self._introduced = trio.Event()
        self._ending: ConnectionLost | None = None
        """Set once the connection is over: what later calls raise."""
        self._failure: ConnectionLost | ProtocolError | None = None
        """What `run` raises; None where this side has ended the connection."""
        self._scope = trio.CancelScope()
        self._running = False
        self._leaving = False
        """Whether this side has ended the connection: what the other side does then is no failure."""
        self._waiting: dict[int, trio.lowlevel.Task] = {}
        self._channels: dict[int, Channel] = {}
        self._askers = trio.lowlevel.ParkingLot()
        self._notifications: deque[m.Message] = deque()
        self._notified = trio.lowlevel.ParkingLot()

    # --- for users ----------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[m.Hello | m.Welcome] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps the connection going until it ends; then closes the stream.

        Started by `nursery.start`, it gives the other side's introduction once that has come. Returns when this
        side has ended the connection by `aclose`.

        Raises:
            ConnectionLost: The other side has said goodbye, gone away, or does not answer any more. It is a TargetEnded
                if the other side is an agent that has ended with its target; so it is in what else raises it.
            RemoteProtocolError: The other side broke the protocol. It has been told, if possible.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._running = True
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._tick)
                    nursery.start_soon(self._notify_handler)
                    self._writer.flush()
                    await self._read(nursery, task_status)
        finally:
            self._running = False
            self._finish()
            await self._transport.close()
        if self._failure is not None:
            raise self._failure

    @property
    def is_over(self) -> bool:
        """Whether the connection has ended, so that nothing can be asked any more."""
        return self._ending is not None

    @property
    def ending(self) -> ConnectionLost | None:
        """Why the connection has ended; None if it has not."""
        return self._ending

    async def handshake(self) -> m.Hello | m.Welcome:
        """The other side's introduction, once it has come; `run` must be under way.

        Raises:
            ConnectionLost: The connection ended before.
        """
        await self._introduced.wait()
        if self._introduction is None:
            self._raise_ending()
        return self._introduction

    @overload
    async def request(self, message: m.Message) -> m.Message: ...
    @overload
    async def request(self, message: m.Message, answer: type[_M]) -> _M: ...
    async def request(self, message: m.Message, answer: type[m.Message] = m.Message) -> m.Message:
        """Asks the other side and waits for its answer, which is of a kind that `answers` allows.

        Args:
            message: The request. A channel that it names must come from `open_channel`; an answer that does
                without the channel ends it.
            answer: The kind of answer wanted, for the type checker where only one is possible.

        Raises:
            RequestFailed: The other side could not do it.
            ConnectionLost: The connection is gone; whether the request was carried out is not known.
            LocalProtocolError: The message is not one that the other side would accept.
        """
        while not self.connection.may_ask and self._ending is None:
            await self._askers.park()
        await self._wait_for_room()
        request_id = self.connection.send_request(message)
        self.requests_sent[type(message).__name__] += 1
        self._flush_one_of(len(self._waiting) + 1)

        def abandon(_: object) -> trio.lowlevel.Abort:
            del self._waiting[request_id]
            self.connection.abandon(request_id)
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiting[request_id] = trio.lowlevel.current_task()
        reply: m.Message | None = await trio.lowlevel.wait_task_rescheduled(abandon)
        if reply is None:
            self._raise_ending()
        if isinstance(reply, m.Failed):
            raise RequestFailed(reply.errno, reply.reason)
        if not isinstance(reply, answer):
            raise TypeError(f"{type(message).__name__} was answered by {type(reply).__name__}")
        return reply

    async def notify(self, message: m.Message) -> None:
        """Tells the other side something that it does not answer.

        Raises:
            ConnectionLost: The connection is gone.
            LocalProtocolError: The message is not one that the other side would accept.
        """
        await trio.lowlevel.checkpoint()
        await self._wait_for_room()
        self.connection.send_notification(message)
        self._writer.flush()

    def open_channel(self) -> Channel:
        """A channel for the next message that begins one (OpenFile, Connect, Accepted), with its `id`.

        Raises:
            RequestFailed: Too many are open (EMFILE).
            ConnectionLost: The connection is gone.
        """
        self._raise_if_over()
        if not self.connection.channels.may_open:
            raise RequestFailed(errno.EMFILE, f"more than {MAX_CHANNELS} connections and files are open at a time")
        channel = self._add_channel(self.connection.channels.open())
        channel.is_taken = True
        return channel

    def accept_channel(self, channel_id: int) -> Channel:
        """The channel that a message of the other side has begun; to be called from the handler of that message.

        If it has been reset meanwhile it is given all the same, and says so when used.
        """
        channel = self._channels.get(channel_id)
        if channel is None:
            channel = Channel(channel_id, self.connection, self._writer, self._forget_channel)
            channel.on_gone(ChannelReset() if self._ending is None else self._ending)
        channel.is_taken = True
        return channel

    async def aclose(self, reason: str = "", *, is_targets_end: bool = False) -> None:
        """Says goodbye and ends `run`, after all is written if that takes no longer than FAREWELL_S."""
        if self._ending is None and not self._leaving:
            self._leaving = True
            self.connection.say_goodbye(reason, is_targets_end=is_targets_end)
            if self._running:
                await self._writer.drain(FAREWELL_S)
        self._scope.cancel()
        await trio.lowlevel.checkpoint()

    # --- reading ------------------------------------------------------------------------------------------

    async def _read(self, nursery: trio.Nursery, task_status: trio.TaskStatus[m.Hello | m.Welcome]) -> None:
        connection = self.connection
        try:
            while True:
                connection.receive_data(await self._transport.read())
                with self._writer:
                    while (event := connection.next_event()) is not None:
                        if isinstance(event, e.HandshakeDone):
                            self._introduction = event.introduction
                            self._introduced.set()
                            task_status.started(event.introduction)
                        else:
                            self._dispatch(event, nursery)
                self._askers.unpark_all()
                await self._writer.wait_for_room(HARD_LIMIT_BYTES)
        except ConnectionLost as error:
            self._fail(error)
        except ProtocolError as error:
            # What is wrong is in a Goodbye that is ready to be sent.
            await self._writer.drain(FAREWELL_S)
            self._fail(error)

    def _dispatch(self, event: e.Event, nursery: trio.Nursery) -> None:
        match event:
            case e.DataReceived():
                if (channel := self._channels.get(event.channel)) is not None:
                    channel.on_data(event.payload)
            case e.CreditReceived():
                if (channel := self._channels.get(event.channel)) is not None:
                    channel.on_credit()
            case e.AnswerReceived():
                if (task := self._waiting.pop(event.request_id, None)) is not None:
                    trio.lowlevel.reschedule(task, outcome.Value(event.message))
            case e.RequestReceived():
                self._expect_channel(event.message)
                nursery.start_soon(self._answer, event.request_id, event.message)
            case e.NotificationReceived():
                if len(self._notifications) >= MAX_WAITING_NOTIFICATIONS:
                    raise RemoteProtocolError("more notifications than can be handled")
                self._expect_channel(event.message)
                self._notifications.append(event.message)
                self._notified.unpark()
            case e.EndReceived():
                if (channel := self._channels.get(event.channel)) is not None:
                    channel.on_end()
            case e.ResetReceived():
                if (channel := self._channels.pop(event.channel, None)) is not None:
                    channel.on_gone(ChannelReset(event.errno))
            case e.GoodbyeReceived():
                lost = TargetEnded if event.is_targets_end else ConnectionLost
                raise lost(event.reason or f"the {self._other} has ended the connection")
            case e.StreamEnded():
                raise ConnectionLost(f"the {self._other} has gone away without a word")
            case _:
                raise AssertionError(event)

    # --- handling -----------------------------------------------------------------------------------------

    async def _answer(self, request_id: int, message: m.Message) -> None:
        """Lets the handler carry out one request."""
        answer: m.Message
        try:
            answer = await self._handler(message) or m.Done()
        except RequestFailed as failure:
            answer = m.Failed(failure.errno or errno.EIO, failure.reason)
        except Exception as error:
            _LOG.exception("the handler of %s failed", type(message).__name__)
            answer = m.Failed(errno.EIO, f"internal error in {type(message).__name__}: {error!r}"[:1000])
        await self._writer.wait_for_room()
        if self._leaving:
            return  # nothing may follow the goodbye
        try:
            ended = self.connection.send_answer(request_id, answer)
        except ProtocolError as error:
            _LOG.error("%s", error)
            ended = self.connection.send_answer(request_id, m.Failed(errno.EIO, str(error)[:1000]))
        if ended:
            channel = self._channels.pop(ended, None)
            if channel is not None:
                channel.on_gone(ChannelReset())
        self._check_accepted(message)
        self._flush_one_of(self.connection.requests_to_answer + 1)

    async def _notify_handler(self) -> None:
        """Hands notifications to the handler, in the order in which they came."""
        while True:
            while not self._notifications:
                await self._notified.park()
            message = self._notifications.popleft()
            try:
                await self._handler(message)
            except Exception:
                _LOG.exception("the handler of %s failed", type(message).__name__)
            self._check_accepted(message)

    def _expect_channel(self, message: m.Message) -> None:
        channel_id = channel_begun(message)
        if channel_id:
            self._add_channel(channel_id)

    def _check_accepted(self, message: m.Message) -> None:
        """Resets the channel that a message has begun if the handler did not take it."""
        channel = self._channels.get(channel_begun(message))
        if channel is not None and not channel.is_taken:
            channel.reset()

    def _forget_channel(self, channel_id: int) -> None:
        self._channels.pop(channel_id, None)

    def _add_channel(self, channel_id: int) -> Channel:
        channel = self._channels[channel_id] = Channel(channel_id, self.connection, self._writer, self._forget_channel)
        return channel

    async def _write(self) -> None:
        try:
            await self._writer.run()
        except ConnectionLost as error:
            # Why the other side has gone may lie in what it sent before: the reader comes upon it at once.
            await trio.sleep(FAREWELL_S)
            self._fail(error)

    def _flush_one_of(self, under_way: int) -> None:
        """Writes at once what stands alone; where more is under way, more is likely to follow."""
        if under_way == 1:
            self._writer.flush()
        else:
            self._writer.flush_soon()

    async def _wait_for_room(self) -> None:
        """Waits while too much is unsent.

        Raises:
            ConnectionLost: The connection is gone.
        """
        await self._writer.wait_for_room()
        self._raise_if_over()

    # --- the end ------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        try:
            while True:
                self.connection.tick(trio.current_time())
                self._writer.flush()
                await trio.sleep(TICK_S)
        except ConnectionLost as error:
            self._fail(error)

    def _fail(self, error: ConnectionLost | ProtocolError) -> None:
        """Ends `run`; the first reason counts."""
        if self._failure is None and not self._leaving:
            self._failure = error
        self._scope.cancel()

    def _finish(self) -> None:
        """Tells everybody who waits, and the other side if it can be done without waiting."""
        reason = str(self._failure) if self._failure is not None else _CLOSED
        if self._writer.is_between_frames:
            self.connection.say_goodbye("")
            self._writer.flush()
        self._writer.close()
        self._ending = TargetEnded(reason) if isinstance(self._failure, TargetEnded) else ConnectionLost(reason)
        for task in self._waiting.values():
            trio.lowlevel.reschedule(task, outcome.Value(None))
        self._waiting.clear()
        for channel in list(self._channels.values()):
            channel.on_gone(self._ending)
        self._channels.clear()
        self._introduced.set()
        self._askers.unpark_all()

    def _raise_if_over(self) -> None:
        """Also between this side's goodbye and the end, since nothing may follow that."""
        if self._leaving or self._ending is not None:
            self._raise_ending()

    def _raise_ending(self) -> NoReturn:
        raise ConnectionLost(_CLOSED) if self._ending is None else type(self._ending)(*self._ending.args)
