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

from mirror.cli.cluster.forwarding import Received

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
_HEAD_BYTES = 8
_MAX_FRAME_BYTES = 1 << 20
"""Longer ones are none: servers send what they have read at once, some 32 KiB."""


class Spdy:
    """The client's end."""

    def __init__(self) -> None:
        self.is_ready = False
        """Whether the data stream has been answered."""
        self._compressor = zlib.compressobj()
        self._pings = -1
        self._buffer = bytearray()

    def headers(self) -> list[tuple[str, str]]:
        """What asks for the upgrade."""
        return [("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", PROTOCOL)]

    def accepts(self, headers: Mapping[str, str]) -> bool:
        """Whether the answer (names in small letters) agrees to what was asked for."""
        return headers.get("upgrade", "").lower() == "spdy/3.1" and headers.get("x-stream-protocol-version") == PROTOCOL

    def begin(self, port: int) -> bytes:
        """What to send first: the two streams."""
        return self._open(_ERROR_STREAM, "error", port, _FIN) + self._open(_DATA_STREAM, "data", port, 0)

    def data(self, data: memoryview) -> bytes:
        """A frame of data."""
        return struct.pack("!II", _DATA_STREAM, len(data)) + data

    def ping(self) -> bytes:
        """What asks the other side for a sign of life."""
        self._pings += 2  # a client's are odd
        return _control(_Kind.PING, struct.pack("!I", self._pings & 0x7FFFFFFF))

    def close(self) -> bytes:
        """What ends the stream."""
        return struct.pack("!II", _DATA_STREAM, _FIN << 24)

    def receive(self, data: bytes | memoryview) -> Received:
        """What has come, understood."""
        received = Received()
        self._buffer += data
        buffer, start = self._buffer, 0
        while len(buffer) - start >= _HEAD_BYTES:
            head, rest = struct.unpack_from("!II", buffer, start)
            length, end = rest & 0xFFFFFF, start + _HEAD_BYTES + (rest & 0xFFFFFF)
            if length > _MAX_FRAME_BYTES or (head >> 31 and head >> 16 != _CONTROL):
                received.broken = "no SPDY"
                break
            if len(buffer) < end:
                break
            payload = buffer[start + _HEAD_BYTES : end]
            if head >> 31:
                self._take_control(head & 0xFFFF, payload, received)
            else:
                _take_data(head, rest >> 24, payload, received)
            start = end
        del buffer[:start]
        return received

    def _open(self, stream: int, kind: str, port: int, flags: int) -> bytes:
        pairs = [("streamtype", kind), ("port", str(port)), ("requestid", "0")]
        block = struct.pack("!I", len(pairs))
        for pair in pairs:
            for text in pair:
                block += struct.pack("!I", len(text)) + text.encode()
        packed = self._compressor.compress(block) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return _control(_Kind.SYN_STREAM, struct.pack("!IIH", stream, 0, 0) + packed, flags)

    def _take_control(self, kind: int, payload: bytearray, received: Received) -> None:
        stream = int.from_bytes(payload[:4], "big")
        match kind:
            case _Kind.SYN_REPLY if stream == _DATA_STREAM:
                self.is_ready = True
            case _Kind.PING if stream % 2 == 0:  # one of theirs
                received.replies += _control(_Kind.PING, bytes(payload))
            case _Kind.RST_STREAM | _Kind.GOAWAY:
                received.ended = True


def _take_data(stream: int, flags: int, payload: bytearray, received: Received) -> None:
    if stream == _ERROR_STREAM:
        received.error += payload
    elif stream == _DATA_STREAM:
        if payload:
            received.data.append(memoryview(payload))
        received.ended = received.ended or bool(flags & _FIN)


def _control(kind: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack("!HHI", _CONTROL, kind, flags << 24 | len(payload)) + payload
