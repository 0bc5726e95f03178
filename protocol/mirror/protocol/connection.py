"""The conversation of proxy and agent, without I/O: bytes in, events out; calls in, bytes out.

    connection.receive_data(data)               # b"" when the stream has ended
    while (event := connection.next_event()) is not None:
        ...
    connection.send_request(StatFile(...))      # and its kin
    transmit(connection.data_to_send())         # after any of these calls

It begins with `Hello` from the client and `Welcome` from the agent; the client need not wait for it before it asks.
It ends with a `Goodbye` from either side, or badly: with a RemoteProtocolError, when the stream ends, or when the
other side has been silent for too long. Messages are judged by the tables in `answers`, channels by `channels`.

Bounds, beside those in `frame` and `channels`: MAX_REQUESTS under way in each direction. A request that its caller
has given up counts until its answer comes, so that both sides count alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from mirror.protocol import messages as m
from mirror.protocol.answers import ANSWERS, NOTIFICATIONS, channel_begun, keeps_channel
from mirror.protocol.channels import Channels
from mirror.protocol.events import (
    AnswerReceived,
    CreditReceived,
    DataReceived,
    EndReceived,
    Event,
    GoodbyeReceived,
    HandshakeDone,
    NotificationReceived,
    RequestReceived,
    ResetReceived,
    StreamEnded,
)
from mirror.protocol.frame import (
    MAX_REQUEST_ID,
    FrameDecoder,
    FrameReader,
    LocalProtocolError,
    RemoteProtocolError,
    append_frame,
)
from mirror.protocol.heartbeat import LOST_AFTER_S, Heartbeat

MAX_REQUESTS = 1024
"""Under way at a time, each direction."""

OLDEST_VERSION = 1
"""The oldest version of the protocol that this code still speaks."""


class ConnectionLost(Exception):
    """There is no connection to the other side any more. The text says why, in one sentence."""


class TargetEnded(ConnectionLost):
    """The agent has ended with its target, and said so."""


class _Request(msgspec.Struct):
    """A request under way, ours or theirs."""

    kind: type[m.Message]
    channel: int
    """The channel it begins, 0 for none."""
    abandoned: bool = False


class Connection:
    """One side of a connection.

    Args:
        is_client: True for the proxy, False for the agent.
        capabilities: What this side can do, for `Hello` or `Welcome`.
        reasons: The agent's sentences on the capabilities that are missing.
        user: Who the client is, for `Hello`.
        session: Which connections are one client's, for `Hello`.
    """

    def __init__(
        self,
        *,
        is_client: bool,
        capabilities: Sequence[str] = (),
        reasons: Mapping[str, str] | None = None,
        user: str = "",
        session: str = "",
    ) -> None:
        self.is_client = is_client
        self.version: int | None = None
        """What both sides speak, once the other one has introduced itself."""
        self.channels = Channels(is_client=is_client)
        self._capabilities = tuple(capabilities)
        self._reasons = dict(reasons or {})
        self._reader = FrameReader(m.AgentMessage)
        self._decoder = FrameDecoder(m.AgentMessage)
        self._outgoing = bytearray()
        self._introduced = False
        """Whether this side has sent its Hello or Welcome."""
        self._said_goodbye = False
        self._stream_ended = False
        self._over = False
        """Whether the other side's part is over: nothing more is decoded."""
        self._last_id = 0
        self._asked: dict[int, _Request] = {}
        self._to_answer: dict[int, _Request] = {}
        self._held_event: Event | None = None
        """The second event where one frame makes two."""
        self._heartbeat = Heartbeat()
        if is_client:
            self._send(0, m.Hello(m.PROTOCOL_VERSION, OLDEST_VERSION, self._capabilities, user, session))
            self._introduced = True

    # --- bytes --------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Takes what was read from the stream; empty if it has ended."""
        if data:
            self._heartbeat.hear()
            self._reader.feed(data)
        else:
            self._stream_ended = True

    def data_to_send(self) -> bytearray:
        """Takes out what is to be written to the stream."""
        data, self._outgoing = self._outgoing, bytearray()
        return data

    @property
    def unsent_bytes(self) -> int:
        """How much `data_to_send` would give."""
        return len(self._outgoing)

    # --- events -------------------------------------------------------------------------------------------

    def next_event(self) -> Event | None:
        """What has happened next; None if more bytes are needed.

        Raises:
            RemoteProtocolError: The other side broke the rules. A `Goodbye` that tells it so is ready to be sent;
                nothing else may be done with this connection.
        """
        event = self._held_event
        if event is not None:
            self._held_event = None
            return event
        try:
            while not self._over and (frame := self._reader.next_frame()) is not None:
                event = self._receive(frame.request_id, frame.message)
                if event is not None:
                    return event
        except RemoteProtocolError as error:
            self._over = True
            self.say_goodbye(f"the {'agent' if self.is_client else 'client'} broke the protocol: {error}")
            raise
        if self._stream_ended and not self._over:
            self._over = True
            return StreamEnded()
        return None

    def _receive(self, request_id: int, message: m.Message) -> Event | None:
        if isinstance(message, m.Data) and request_id == 0 and self.version is not None:
            return self._receive_data(message)
        if isinstance(message, m.Goodbye):
            self._over = True
            return GoodbyeReceived(message.reason, message.is_targets_end)
        if self.version is None:
            return self._receive_introduction(request_id, message)
        if request_id > 0:
            return self._receive_request(request_id, message)
        if request_id < 0:
            return self._receive_answer(-request_id, message)
        return self._receive_notification(message)

    def _receive_introduction(self, request_id: int, message: m.Message) -> Event:
        """`Hello` or `Welcome`. An agent that is too new or too old for the client says so in a Goodbye."""
        if request_id == 0 and not self.is_client and isinstance(message, m.Hello):
            version = min(message.version, m.PROTOCOL_VERSION)
            if version < max(OLDEST_VERSION, message.oldest_version):
                sentence = (
                    f"the client speaks versions {message.oldest_version} to {message.version} of mirror's protocol, "
                    f"this agent {OLDEST_VERSION} to {m.PROTOCOL_VERSION}; use the same release of both"
                )
                self.say_goodbye(sentence)
                raise RemoteProtocolError(sentence)
            self._send(0, m.Welcome(version, self._capabilities, self._reasons))
            self._introduced = True
        elif request_id == 0 and self.is_client and isinstance(message, m.Welcome):
            version = message.version
            if not OLDEST_VERSION <= version <= m.PROTOCOL_VERSION:
                raise RemoteProtocolError(f"the agent chose version {version}, which was not offered")
        else:
            raise RemoteProtocolError(f"{_name(message)} before the introduction")
        self.version = version
        return HandshakeDone(message, version)

    def _receive_request(self, request_id: int, message: m.Message) -> Event | None:
        kind = type(message)
        if kind is m.Ping:
            self._send(-request_id, m.Done())
            return None
        if kind not in ANSWERS:
            raise RemoteProtocolError(f"{_name(message)} is not a request")
        if request_id in self._to_answer:
            raise RemoteProtocolError(f"request {request_id} was used twice")
        if len(self._to_answer) >= MAX_REQUESTS:
            raise RemoteProtocolError(f"more than {MAX_REQUESTS} requests at a time")
        channel = channel_begun(message)
        if channel:
            self.channels.begun_by_other(channel)
        self._to_answer[request_id] = _Request(kind, channel)
        return RequestReceived(request_id, message)

    def _receive_answer(self, request_id: int, message: m.Message) -> Event | None:
        request = self._asked.pop(request_id, None)
        if request is None:
            raise RemoteProtocolError(f"{_name(message)} answers request {request_id}, which is not under way")
        if not isinstance(message, (m.Failed, *ANSWERS[request.kind])):
            raise RemoteProtocolError(f"{_name(message)} does not answer {request.kind.__name__}")
        if isinstance(message, m.Failed) and message.errno == 0:
            raise RemoteProtocolError("Failed without an errno")
        if request.kind is m.Ping:
            return None
        answer = None if request.abandoned else AnswerReceived(request_id, message)
        if request.channel and not keeps_channel(message) and self.channels.drop(request.channel):
            self._held_event = answer
            return ResetReceived(request.channel, 0)
        return answer

    def _receive_notification(self, message: m.Message) -> Event | None:
        channels = self.channels
        match message:
            case m.Credit(channel=channel, size_bytes=size_bytes):
                return CreditReceived(channel) if channels.got_credit(channel, size_bytes) else None
            case m.EndOfData(channel=channel):
                return EndReceived(channel) if channels.got_end(channel) else None
            case m.Reset(channel=channel, errno=errno):
                return ResetReceived(channel, errno) if channels.got_reset(channel) else None
            case _ if type(message) in NOTIFICATIONS:
                begun = channel_begun(message)
                if begun:
                    channels.begun_by_other(begun)
                elif isinstance(message, m.Accepted):
                    raise RemoteProtocolError("Accepted without a channel")
                return NotificationReceived(message)
            case _:
                raise RemoteProtocolError(f"{_name(message)} is not a notification")

    def _receive_data(self, data: m.Data) -> Event | None:
        to_owner, refused = self.channels.got_data(data.channel, len(data.payload))
        if refused:
            self._send(0, m.Reset(data.channel))
        return DataReceived(data.channel, data.payload) if to_owner else None

    # --- requests -----------------------------------------------------------------------------------------

    @property
    def may_ask(self) -> bool:
        """Whether one more request may be sent."""
        return len(self._asked) < MAX_REQUESTS

    @property
    def requests_to_answer(self) -> int:
        """How many requests of the other side are under way."""
        return len(self._to_answer)

    def send_request(self, message: m.Message) -> int:
        """Asks; the id by which the answer will be known.

        Raises:
            LocalProtocolError: It is no request, or not one that the other side would accept.
        """
        kind = type(message)
        if kind not in ANSWERS:
            raise LocalProtocolError(f"{_name(message)} is not a request")
        if not self.may_ask:
            raise LocalProtocolError(f"more than {MAX_REQUESTS} requests at a time")
        self._check_open()
        channel = channel_begun(message)
        if channel:
            self.channels.check_begin(channel)
        request_id = self._new_id()
        self._send_checked(request_id, message)
        if channel:
            self.channels.begin(channel)
        self._asked[request_id] = _Request(kind, channel)
        return request_id

    def abandon(self, request_id: int) -> None:
        """Nobody waits for this answer any more; nothing is sent. Its channel stays as it is."""
        request = self._asked.get(request_id)
        if request is not None:
            request.abandoned = True

    def send_answer(self, request_id: int, message: m.Message) -> int:
        """Answers a request of the other side; the channel that ends by this answer, 0 for none.

        Raises:
            LocalProtocolError: The request is not under way, this message does not answer it, or it is not one
                that the other side would accept. The request stays under way.
        """
        request = self._to_answer.get(request_id)
        if request is None:
            raise LocalProtocolError(f"request {request_id} is not under way")
        if not isinstance(message, (m.Failed, *ANSWERS[request.kind])):
            raise LocalProtocolError(f"{_name(message)} does not answer {request.kind.__name__}")
        if isinstance(message, m.Failed) and message.errno == 0:
            raise LocalProtocolError("Failed without an errno")
        self._check_open()
        self._send_checked(-request_id, message)
        del self._to_answer[request_id]
        if request.channel and not keeps_channel(message) and self.channels.drop(request.channel):
            return request.channel
        return 0

    def send_notification(self, message: m.Message) -> None:
        """Tells the other side something.

        Raises:
            LocalProtocolError: It is no notification, or not one that the other side would accept.
        """
        if type(message) not in NOTIFICATIONS:
            raise LocalProtocolError(f"{_name(message)} is not a notification")
        self._check_open()
        channel = channel_begun(message)
        if channel or isinstance(message, m.Accepted):
            self.channels.check_begin(channel)
        self._send_checked(0, message)
        if channel:
            self.channels.begin(channel)

    # --- channels -----------------------------------------------------------------------------------------

    def send_data(self, channel: int, data: bytes | bytearray | memoryview) -> int:
        """Sends the beginning of `data`: as much as credit and the size of a frame allow; how much that was.

        Raises:
            LocalProtocolError: The channel is not open for sending.
        """
        size_bytes = self.channels.spend(channel, len(data))
        if size_bytes:
            payload = data if size_bytes == len(data) else memoryview(data)[:size_bytes]
            # Any buffer is encoded as bytes; a copy just for the field's type would cost as much as the rest.
            self._send(0, m.Data(channel, payload))  # type: ignore[arg-type]
        return size_bytes

    def send_end(self, channel: int) -> None:
        """Tells that no more data follows; raises LocalProtocolError if that was told before."""
        self.channels.send_end(channel)
        self._send(0, m.EndOfData(channel))

    def reset(self, channel: int, errno: int = 0) -> None:
        """Ends both directions at once; nothing is sent if the channel is gone already."""
        if self.channels.is_begun(channel):
            self._send(0, m.Reset(channel, errno))
        self.channels.drop(channel)

    def abandon_channel(self, channel: int) -> None:
        """The channel's owner is gone: a reset, unless all was sent and nothing waits to be read.

        In that case what was sent stays valid, and the channel goes when the other side ends it too.
        """
        if self.channels.abandon(channel):
            self._send(0, m.Reset(channel))

    def acknowledge(self, channel: int, size_bytes: int) -> None:
        """Received bytes are out of our memory: the other side may send more."""
        credit_bytes = self.channels.acknowledge(channel, size_bytes)
        if credit_bytes:
            self._send(0, m.Credit(channel, credit_bytes))

    # --- end and heartbeat --------------------------------------------------------------------------------

    def say_goodbye(self, reason: str, *, is_targets_end: bool = False) -> None:
        """The last thing that is sent; nothing if it was sent before."""
        if not self._said_goodbye:
            self._send(0, m.Goodbye(reason[:1000], is_targets_end))
            self._said_goodbye = True

    def tick(self, now_s: float) -> None:
        """To be called every TICK_S seconds, with the time of a monotonic clock.

        Raises:
            ConnectionLost: The other side does not answer.
        """
        silence_s = self._heartbeat.tick(now_s)
        if silence_s >= LOST_AFTER_S:
            other = "agent" if self.is_client else "client"
            raise ConnectionLost(f"the {other} has not answered for {silence_s:.0f} seconds")
        if self._heartbeat.wants_ping and self._introduced and not self._said_goodbye:
            self._heartbeat.wants_ping = False
            request_id = self._new_id()
            self._send(request_id, m.Ping())
            self._asked[request_id] = _Request(m.Ping, 0)

    # --- inside -------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if not self._introduced:
            raise LocalProtocolError("the introduction comes first")
        if self._said_goodbye:
            raise LocalProtocolError("this side has said goodbye")

    def _new_id(self) -> int:
        while True:
            self._last_id = self._last_id % MAX_REQUEST_ID + 1
            if self._last_id not in self._asked:
                return self._last_id

    def _send(self, request_id: int, message: m.Message) -> None:
        append_frame(self._outgoing, request_id, message)

    def _send_checked(self, request_id: int, message: m.Message) -> None:
        """Sends what comes from outside this package only if the other side would take it.

        A field out of bounds would cost the whole connection over there; here it costs the one call.
        """
        start = len(self._outgoing)
        append_frame(self._outgoing, request_id, message)
        try:
            with memoryview(self._outgoing) as view, view[start + 4 :] as content:
                self._decoder.decode(content)
        except RemoteProtocolError as error:
            del self._outgoing[start:]
            raise LocalProtocolError(f"cannot send {_name(message)}: {error}") from None


def _name(message: m.Message) -> str:
    return type(message).__name__
