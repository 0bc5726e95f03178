"""A port-forward in SPDY/3.1, as kubectl has always done it: `portforward.k8s.io`. No I/O here.

Of SPDY (draft-mbelshe-httpbis-spdy-00) this is what one port-forward needs: two streams, of which the first carries
what went wrong and the second the data. The servers are all Go's spdystream, which has no flow control of its own, and
drops data for a stream that it has not yet answered.

A header block may be compressed with SPDY's dictionary or, as here, without: the first bytes of the compressed data say
which (RFC 1950, FDICT), and zlib in Go follows them. What the server's headers say is of no interest.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Mapping

from mirror.cli.cluster.forwarding import WRITE_BYTES, Received

PROTOCOL = "portforward.k8s.io"

_ERROR_STREAM, _DATA_STREAM = 1, 3


class _Kind(enum.IntEnum):
    """Of control frames, those that mean something here."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    PING = 6
    GOAWAY = 7


_CONTROL = 0x8003
"""The control bit and the version."""
_FIN = 1
_HEAD = struct.Struct("!II")
FRAME_BYTES = (64 << 10) - _HEAD.size
"""The most data in a frame: with its head it fills four TLS records, and no fifth for the last few bytes. The other
side reads a frame whole before it passes it on."""
_MAX_FRAME_BYTES = 1 << 20
"""Longer ones are none: servers send what they have read at once, some 32 KiB."""


class Spdy:
    """The client's end."""

    def __init__(self) -> None:
        self.is_ready = False
        """Whether the data stream has been answered."""
        self._unfinished = {_ERROR_STREAM, _DATA_STREAM}
        """By the other side. Which of them it finishes first is not certain, so the end of the data alone does not tell
        whether something went wrong."""
        self._compressor = zlib.compressobj()
        self._pings = -1
        self._frames = memoryview(bytearray(WRITE_BYTES + (WRITE_BYTES // FRAME_BYTES + 1) * _HEAD.size))
        """Kept: to get that much memory anew for each write costs more than its encryption."""
        self._begun = bytearray()
        """Of a head or a control frame that has not come whole."""
        self._wanted = _HEAD.size
        """How long that will be."""
        self._stream = self._flags = self._left = 0
        """The data frame that is coming, and how many of its bytes are still to come."""
        self._error = bytearray()
        """Of a frame of the first stream: a sentence, which is understood as a whole."""

    def headers(self) -> list[tuple[str, str]]:
        """What asks for the upgrade."""
        return [("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", PROTOCOL)]

    def accepts(self, headers: Mapping[str, str]) -> bool:
        """Whether the answer (names in small letters) agrees to what was asked for."""
        return headers.get("upgrade", "").lower() == "spdy/3.1" and headers.get("x-stream-protocol-version") == PROTOCOL

    def begin(self, port: int) -> bytes:
        """What to send first: the two streams."""
        return self._open(_ERROR_STREAM, "error", port, _FIN) + self._open(_DATA_STREAM, "data", port, 0)

    def frames(self, data: memoryview) -> memoryview:
        """As `Forwarding.frames`."""
        end = 0
        for start in range(0, len(data), FRAME_BYTES):
            part = data[start : start + FRAME_BYTES]
            _HEAD.pack_into(self._frames, end, _DATA_STREAM, len(part))
            begin, end = end + _HEAD.size, end + _HEAD.size + len(part)
            self._frames[begin:end] = part
        return self._frames[:end]

    def ping(self) -> bytes:
        """What asks the other side for a sign of life."""
        self._pings += 2  # a client's are odd
        return _control(_Kind.PING, struct.pack("!I", self._pings & 0x7FFFFFFF))

    def close(self) -> bytes:
        """What ends the stream."""
        return _HEAD.pack(_DATA_STREAM, _FIN << 24)

    def receive(self, data: bytes | memoryview) -> Received:
        """What has come, understood. Data is passed on before its frame has come whole."""
        received = Received()
        rest = memoryview(data)
        while rest and not received.broken:
            if self._left:
                part, rest = rest[: self._left], rest[self._left :]
                self._left -= len(part)
                self._take_data(part, received)
            else:
                missing = self._wanted - len(self._begun)
                self._begun += rest[:missing]
                rest = rest[missing:]
                if len(self._begun) == self._wanted:
                    self._take_begun(received)
        return received

    def _open(self, stream: int, kind: str, port: int, flags: int) -> bytes:
        pairs = [("streamtype", kind), ("port", str(port)), ("requestid", "0")]
        block = struct.pack("!I", len(pairs))
        for pair in pairs:
            for text in pair:
                block += struct.pack("!I", len(text)) + text.encode()
        packed = self._compressor.compress(block) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return _control(_Kind.SYN_STREAM, struct.pack("!IIH", stream, 0, 0) + packed, flags)

    def _take_begun(self, received: Received) -> None:
        """A head is there, or all of a control frame."""
        head, size = _HEAD.unpack_from(self._begun)
        flags, length = size >> 24, size & 0xFFFFFF
        if length > _MAX_FRAME_BYTES or (head >> 31 and head >> 16 != _CONTROL):
            received.broken = "no SPDY"
            return
        if not head >> 31:
            self._stream, self._flags, self._left = head, flags, length
            if not length:
                self._take_data(memoryview(b""), received)
        elif self._wanted < _HEAD.size + length:
            self._wanted = _HEAD.size + length
            return
        else:
            self._take_control(head & 0xFFFF, bytes(self._begun[_HEAD.size :]), received)
        self._begun.clear()
        self._wanted = _HEAD.size

    def _take_data(self, part: memoryview, received: Received) -> None:
        """The next bytes of a data frame."""
        if self._stream == _ERROR_STREAM:
            self._error += part
            if not self._left:
                received.error += self._error
                self._error.clear()
        elif self._stream == _DATA_STREAM and part:
            received.data.append(part)
        if not self._left and self._flags & _FIN:
            self._finish(self._stream, received)

    def _take_control(self, kind: int, payload: bytes, received: Received) -> None:
        stream = int.from_bytes(payload[:4], "big")
        match kind:
            case _Kind.SYN_REPLY if stream == _DATA_STREAM:
                self.is_ready = True
            case _Kind.PING if stream % 2 == 0:  # one of theirs
                received.replies += _control(_Kind.PING, payload)
            case _Kind.RST_STREAM:
                self._finish(stream, received)
            case _Kind.GOAWAY:
                received.ended = True

    def _finish(self, stream: int, received: Received) -> None:
        self._unfinished.discard(stream)
        received.ended = received.ended or not self._unfinished


def _control(kind: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack("!HHI", _CONTROL, kind, flags << 24 | len(payload)) + payload
