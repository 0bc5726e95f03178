"""Bytes to messages and back, one frame at a time, with a limit on what a hostile sender can make us do.

A frame is a 32-bit big-endian length, then that many bytes of MessagePack: the array

    [request id, [message name, fields...]]

The id says what the message is to the receiver. A *request* carries a positive id of its sender's choice, unused
among its requests under way; the *answer* carries the same id negated; a *notification* carries 0. So both sides
may ask, and an answer is never mistaken for a request.

Descriptors (SCM_RIGHTS) travel beside the first byte of their frame; `FrameReader` puts the two together again.

What the content holds is decoded by `codec`, within bounds, and becomes a struct of the message's class if every field
is what the class says; unknown fields at the end are skipped.
Nothing here does I/O or remembers a conversation: that is `connection`.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args

import msgspec

from mirror.protocol import codec
from mirror.protocol.messages import Data, FileOpened, Message

MAX_FRAME_BYTES = 1 << 20
"""Without the 4 bytes of the length. Decoding takes at most some 60 times that: see tests/protocol/test_frame.py."""

MAX_REQUEST_ID = 2**31 - 1

_LENGTH = struct.Struct(">I")
_HEADER_BYTES = _LENGTH.size

_BULK_FIELDS: dict[type[Message], str] = {Data: "payload", FileOpened: "content"}
"""Which field of a message may hold many bytes: these are copied once, straight into the frame."""
_BULK_BYTES = 4 << 10
"""Fewer are encoded with the rest, which is quicker."""
_BIN_16 = struct.Struct(">BH")
_BIN_32 = struct.Struct(">BI")
_NO_BYTES = codec.encode(b"")


class ProtocolError(Exception):
    """The rules of the protocol were broken."""


class LocalProtocolError(ProtocolError):
    """This side was about to break the rules. Nothing was sent; the connection is as good as before."""


class RemoteProtocolError(ProtocolError):
    """The other side broke the rules. The connection cannot be used any more."""


class Frame(NamedTuple):
    """One decoded frame."""

    request_id: int
    """Positive: a request. Negative: the answer to our request of that number. 0: a notification."""
    message: Message
    descriptors: tuple[int, ...] = ()
    """What came beside the frame; the receiver owns them."""


def append_frame(buffer: bytearray, request_id: int, message: Message) -> None:
    """Appends one frame to `buffer`.

    Raises:
        LocalProtocolError: The message does not fit into a frame or holds what MessagePack cannot carry (an
            integer beyond 64 bits, a lone surrogate). `buffer` is as before.
    """
    for piece in _pieces(request_id, message):
        buffer += piece


def encode_frame(request_id: int, message: Message) -> bytes:
    """The bytes of one frame; raises as `append_frame` does."""
    return b"".join(_pieces(request_id, message))


def _pieces(request_id: int, message: Message) -> tuple[bytes | bytearray | memoryview, ...]:
    """One frame, its length first; raises as `append_frame` does."""
    try:
        bulk_field = _BULK_FIELDS.get(type(message))
        if bulk_field is not None and len(getattr(message, bulk_field)) >= _BULK_BYTES:
            head, bulk, tail = _around_bulk(request_id, message, bulk_field)
        else:
            head, bulk, tail = codec.encode((request_id, message)), b"", b""
    except (OverflowError, TypeError, ValueError, RecursionError) as error:
        raise LocalProtocolError(f"cannot send {type(message).__name__}: {error}") from None
    size_bytes = len(head) + len(bulk) + len(tail)
    if size_bytes > MAX_FRAME_BYTES:
        raise LocalProtocolError(
            f"cannot send {type(message).__name__}: {size_bytes} bytes are more than a frame holds ({MAX_FRAME_BYTES})"
        )
    return _LENGTH.pack(size_bytes), head, bulk, tail


def _around_bulk(request_id: int, message: Message, bulk_field: str) -> tuple[bytes, bytes, bytes]:
    """The content of a frame in three: what comes before the many bytes of one field, they themselves, and the rest."""
    place = message.__struct_fields__.index(bulk_field)
    fields = msgspec.structs.astuple(message)
    before, bulk, after = fields[:place], fields[place], fields[place + 1 :]
    whole = codec.encode((request_id, (message.__struct_config__.tag, *before, b"", *after)))
    tail = b"".join(map(codec.encode, after))
    head = whole[: len(whole) - len(_NO_BYTES) - len(tail)]
    return head + (_BIN_16.pack(0xC5, len(bulk)) if len(bulk) < 1 << 16 else _BIN_32.pack(0xC6, len(bulk))), bulk, tail


class FrameDecoder:
    """Decodes the inside of frames: the part without the length.

    Args:
        messages: The messages that may come, as a union (`AgentMessage`, `LayerMessage`).
    """

    def __init__(self, messages: Any) -> None:
        # `Any`: a union of types has no type that mypy would accept here.
        # By name, as msgspec takes thirty times as long for one of a union than for one class.
        self._kinds: dict[str, type[Message]] = {kind.__struct_config__.tag: kind for kind in get_args(messages)}

    def decode(self, content: bytes | bytearray | memoryview) -> tuple[int, Message]:
        """The request id and the message.

        Raises:
            RemoteProtocolError: These are not the bytes of one message that may come here.
        """
        try:
            request_id, name, fields = _parts(codec.decode(content))
            kind = self._kinds.get(name)
            if kind is None:
                raise codec.Malformed(f"no message that may come here is called {name[:40]!r}")
            return request_id, codec.convert(fields, kind)
        except codec.Malformed as error:
            raise RemoteProtocolError(f"malformed frame: {error}") from None


def _parts(value: object) -> tuple[int, str, tuple[Any, ...]]:
    """What a frame holds: the request id, the message's name, and its fields with the name before them."""
    if type(value) is not tuple or len(value) != 2 or type(value[0]) is not int:
        raise codec.Malformed("not a request id and a message")
    request_id, fields = value
    if not -MAX_REQUEST_ID <= request_id <= MAX_REQUEST_ID:
        raise codec.Malformed(f"{request_id} is no request id")
    if type(fields) is not tuple or not fields or type(fields[0]) is not str:
        raise codec.Malformed("a message without a name")
    return request_id, fields[0], fields


class _Attachment(NamedTuple):
    """Descriptors that came with one read."""

    end: int
    """Where in the stream the read ended."""
    descriptors: tuple[int, ...]


class FrameReader:
    """Cuts a stream of bytes, in whatever pieces it comes, into frames.

        reader.feed(data)
        for frame in reader:
            ...

    It never holds more than one unfinished frame and what was last fed. After a RemoteProtocolError it stays
    broken: the boundary of the next frame is not known.
    """

    def __init__(self, messages: Any) -> None:
        self._decoder = FrameDecoder(messages)
        self._buffer = bytearray()
        self._position = 0
        """Where in the stream the buffer begins."""
        self._attachments: deque[_Attachment] = deque()
        self._error: RemoteProtocolError | None = None

    def feed(self, data: bytes | bytearray | memoryview, descriptors: Sequence[int] = ()) -> None:
        """Takes what one read gave.

        Args:
            data: Bytes of the stream; what they mean at its end, see `close`.
            descriptors: Those that came with this very read. They belong to the last frame that begins in it:
                Linux ends a read after the segment that carried descriptors (net/unix/af_unix.c,
                unix_stream_read_generic), and a frame is sent by one sendmsg.
        """
        self._buffer += data
        if descriptors:
            self._attachments.append(_Attachment(self._position + len(self._buffer), tuple(descriptors)))

    def next_frame(self) -> Frame | None:
        """The next whole frame, None if more bytes are needed.

        Raises:
            RemoteProtocolError: The frame is too large or not a message that may come here.
        """
        if self._error is not None:
            raise self._error
        buffer = self._buffer
        if len(buffer) < _HEADER_BYTES:
            return None
        (size_bytes,) = _LENGTH.unpack_from(buffer)
        if size_bytes > MAX_FRAME_BYTES:
            raise self._broken(f"a frame of {size_bytes} bytes was announced, the limit is {MAX_FRAME_BYTES}")
        end = _HEADER_BYTES + size_bytes
        if len(buffer) < end:
            return None
        try:
            # The view must be gone before the buffer may shrink.
            with memoryview(buffer) as view, view[_HEADER_BYTES:end] as content:
                request_id, message = self._decoder.decode(content)
        except RemoteProtocolError as error:
            raise self._broken(str(error)) from None
        del buffer[:end]
        self._position += end
        descriptors = self._take_attached(self._position) if self._attachments else ()
        return Frame(request_id, message, descriptors)

    def __iter__(self) -> Iterator[Frame]:
        """The whole frames there are."""
        while (frame := self.next_frame()) is not None:
            yield frame

    def close(self) -> tuple[int, ...]:
        """Ends the reading; the descriptors that came and were not given out, for the caller to close.

        Ask `is_between_frames` first to know whether the stream broke off within a frame.
        """
        left = tuple(number for attachment in self._attachments for number in attachment.descriptors)
        self._attachments.clear()
        self._buffer.clear()
        self._error = self._error or RemoteProtocolError("the stream has been closed")
        return left

    @property
    def is_between_frames(self) -> bool:
        """Whether the stream may end here."""
        return not self._buffer

    def _take_attached(self, end: int) -> tuple[int, ...]:
        """The descriptors of the frame that ends at `end`: of each read in which it was the last to begin."""
        taken: tuple[int, ...] = ()
        while self._attachments and self._attachments[0].end <= end:
            attachment = self._attachments.popleft()
            taken += attachment.descriptors
        return taken

    def _broken(self, reason: str) -> RemoteProtocolError:
        self._error = RemoteProtocolError(reason)
        return self._error
