"""A port-forward in a WebSocket: `v4.channel.k8s.io`. No I/O here.

The first byte of a message is its channel: 0 for data, 1 for what went wrong; the first message on each is the port's
number (kubernetes, pkg/kubelet/cri/streaming/portforward/websocket.go). The WebSocket is the protocol without I/O of
`websockets`: its trio flavour stops for ever when both directions are busy, and other libraries mask bytes in Python
(wsproto: 235 MB/s, this: 2600).
"""

from __future__ import annotations

from collections.abc import Mapping

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State
from websockets.utils import accept_key, generate_key

from mirror.cli.cluster.forwarding import Received

SUBPROTOCOL = "v4.channel.k8s.io"

FRAME_BYTES = (64 << 10) - 16
"""The most data in a frame: with what frames it, it fills four TLS records. The other side reads it whole before it
passes it on."""

_DATA, _ERROR = 0, 1


class Channels:
    """The client's end."""

    def __init__(self) -> None:
        self._key = generate_key()
        self._protocol = Protocol(Side.CLIENT, state=State.OPEN, max_size=None)
        self._begun: set[int] = set()
        """The channels whose first message has come."""
        self._channel = _DATA
        """Of the message that frames belong to."""

    def headers(self) -> list[tuple[str, str]]:
        """What asks for the upgrade."""
        return [
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", self._key),
            ("Sec-WebSocket-Protocol", SUBPROTOCOL),
        ]

    def accepts(self, headers: Mapping[str, str]) -> bool:
        """Whether the answer (names in small letters) agrees to what was asked for."""
        agreed = headers.get("sec-websocket-protocol")
        return headers.get("sec-websocket-accept") == accept_key(self._key) and agreed == SUBPROTOCOL

    is_ready = True
    """Data may be sent at once."""

    def begin(self, port: int) -> bytes:
        """What to send first: nothing, the port stands in the URL."""
        return b""

    def frames(self, data: memoryview) -> bytes:
        """As `Forwarding.frames`."""
        for start in range(0, len(data), FRAME_BYTES):
            self._protocol.send_binary(b"\0" + data[start : start + FRAME_BYTES])
        return self._replies()

    def ping(self) -> bytes:
        """What asks the other side for a sign of life."""
        self._protocol.send_ping(b"")
        return self._replies()

    def close(self) -> bytes:
        """What ends the connection."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close()
        return self._replies()

    def receive(self, data: bytes | memoryview) -> Received:
        """What has come, understood."""
        received = Received()
        self._protocol.receive_data(data)  # type: ignore[arg-type] # any buffer will do
        for event in self._protocol.events_received():
            assert isinstance(event, Frame)
            match event.opcode:
                case Opcode.BINARY | Opcode.TEXT if event.data:
                    self._channel = event.data[0]
                    self._take(memoryview(event.data)[1:], received)
                case Opcode.CONT:
                    self._take(memoryview(event.data), received)
                case Opcode.CLOSE:
                    received.ended = True
        received.replies = self._replies()
        if self._protocol.parser_exc is not None and self._protocol.close_rcvd is None:
            received.broken = str(self._protocol.parser_exc)
        return received

    def _take(self, content: memoryview, received: Received) -> None:
        if self._channel not in self._begun:
            self._begun.add(self._channel)
        elif self._channel == _DATA:
            received.data.append(content)
        else:
            received.error += bytes(content)

    def _replies(self) -> bytes:
        return b"".join(self._protocol.data_to_send())
