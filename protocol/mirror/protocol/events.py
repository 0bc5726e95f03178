"""What a `Connection` reports: facts only, the rules are in `connection`."""

from __future__ import annotations

import msgspec

from mirror.protocol import messages as m


class Event(msgspec.Struct, frozen=True):
    """Base of what `next_event` gives."""


class HandshakeDone(Event, frozen=True):
    """The other side has introduced itself; `version` is what both speak."""

    introduction: m.Hello | m.Welcome
    version: int


class RequestReceived(Event, frozen=True):
    """To be answered by `send_answer`. If it begins a channel, that is alive."""

    request_id: int
    message: m.Message


class AnswerReceived(Event, frozen=True):
    """The answer to our request; its kind has been checked. Not given for an abandoned one."""

    request_id: int
    message: m.Message


class NotificationReceived(Event, frozen=True):
    """If it begins a channel, that is alive."""

    message: m.Message


class DataReceived(Event, frozen=True):
    """Bytes of a channel; to be given back by `acknowledge` once they are out of our memory."""

    channel: int
    payload: bytes


class CreditReceived(Event, frozen=True):
    """More may be sent on the channel."""

    channel: int


class EndReceived(Event, frozen=True):
    """No more bytes come on the channel."""

    channel: int


class ResetReceived(Event, frozen=True):
    """The channel is gone, both ways. Also when the answer to the request that began it says so (errno 0)."""

    channel: int
    errno: int


class GoodbyeReceived(Event, frozen=True):
    """The other side ends the connection."""

    reason: str
    is_targets_end: bool = False


class StreamEnded(Event, frozen=True):
    """The stream has ended without a `Goodbye`."""
