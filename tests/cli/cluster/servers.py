"""Servers on the loopback for the tests of the cluster's access: HTTP over TLS, proxies, and a kubelet's port-forward.

Each lives as long as a `with` block. They answer by what a test gives them, and remember what they were asked.
"""

from __future__ import annotations

import dataclasses
import json
import ssl
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import h11
import trio
import trustme
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State
from websockets.utils import accept_key

from mirror.cli.cluster.access import Access
from mirror.cli.cluster.credentials import Fixed


def mutual_tls(authority: trustme.CA, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context that asks for its client's certificate, and a client's that has none yet.

    Args:
        authority: Whom both trust.
        name: The server's.
    """
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(theirs)
    authority.issue_cert(name).configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    return theirs, ours


@dataclasses.dataclass
class Asked:
    """A request as a server got it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int
    """Which of the server's connections it came over, counted from 1."""
    certificate: str
    """The common name in the client's certificate; empty if there was none."""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def json(self) -> Any:
        return json.loads(self.body)


@dataclasses.dataclass
class Answer:
    """What a server says.

    Attributes:
        content: The body: bytes, or what JSON can say.
        parts: The body instead, each part written by itself.
        end: What comes after the parts: `end`, `cut` (the connection), or `stay` (nothing, for ever).
    """

    status: int = 200
    content: Any = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parts: Sequence[bytes] | None = None
    end: str = "end"


def failure(status: int, reason: str, message: str, **details: Any) -> Answer:
    """A refusal as an API server words it."""
    return Answer(
        status,
        {
            "kind": "Status",
            "status": "Failure",
            "code": status,
            "reason": reason,
            "message": message,
            "details": details,
        },
    )


Handler = Callable[[Asked], Awaitable[Answer | None]]
"""Gives the answer; None: the connection is closed without one."""

Upgrade = Callable[[trio.abc.Stream, Asked], Awaitable[Answer | None]]
"""Takes the connection over, or gives an answer that refuses it."""


class HttpServer:
    """A server of HTTP/1.1.

    Attributes:
        asked: What it was asked, in the order of the requests.
        url: Of its root.
    """

    def __init__(self, handler: Handler, upgrade: Upgrade | None, tls: ssl.SSLContext | None) -> None:
        self.asked: list[Asked] = []
        self.url = ""
        self.port = 0
        self.connections = 0
        self._handler = handler
        self._upgrade = upgrade
        self._tls = tls

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        number = self.connections
        if self._tls is None:
            await self._converse(stream, number, "")
            return
        secure = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)
        try:
            await secure.do_handshake()
            await self._converse(secure, number, _name_of(secure.getpeercert()))
        except trio.BrokenResourceError:
            pass  # the client did not like the certificate, or went
        finally:
            await trio.aclose_forcefully(secure)

    async def _converse(self, stream: trio.abc.Stream, number: int, certificate: str) -> None:
        connection = h11.Connection(h11.SERVER)
        while True:
            request = await _next(connection, stream)
            if not isinstance(request, h11.Request):
                return
            body = b""
            while isinstance(event := await _next(connection, stream), h11.Data):
                body += bytes(event.data)
            headers = {name.decode(): value.decode() for name, value in request.headers}
            asked = Asked(request.method.decode(), request.target.decode(), headers, body, number, certificate)
            self.asked.append(asked)
            if self._upgrade is not None and "upgrade" in headers:
                answer = await self._upgrade(stream, asked)
            else:
                answer = await self._handler(asked)
            if answer is None or not await self._answer(connection, stream, answer):
                return
            if connection.our_state is h11.MUST_CLOSE:
                return
            connection.start_next_cycle()

    async def _answer(self, connection: h11.Connection, stream: trio.abc.Stream, answer: Answer) -> bool:
        content = answer.content
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = [(name, value) for name, value in answer.headers.items()]
        if answer.parts is None:
            headers += [("Content-Length", str(len(body)))]
        head = h11.Response(status_code=answer.status, headers=headers)
        if answer.parts is None:
            await stream.send_all(
                (connection.send(head) or b"")
                + (connection.send(h11.Data(data=body)) or b"")
                + (connection.send(h11.EndOfMessage()) or b"")
            )
            return True
        await stream.send_all(connection.send(head) or b"")
        for part in answer.parts:
            await stream.send_all(connection.send(h11.Data(data=part)) or b"")
        if answer.end == "stay":
            await trio.sleep_forever()
        elif answer.end == "end":
            await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
        return answer.end == "end"


async def _next(connection: h11.Connection, stream: trio.abc.Stream) -> Any:
    while (event := connection.next_event()) is h11.NEED_DATA:
        try:
            connection.receive_data(bytes(await stream.receive_some(65536)))
        except trio.BrokenResourceError:
            return None
    return event


def _name_of(certificate: Any) -> str:
    for part in (certificate or {}).get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""


@asynccontextmanager
async def http_server(
    handler: Handler, *, upgrade: Upgrade | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[HttpServer]:
    server = HttpServer(handler, upgrade, tls)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
        server.port = listeners[0].socket.getsockname()[1]
        server.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.port}"
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()


class Kubelet:
    """The far end of a port-forward. A subclass knows how its bytes are framed.

    Like the servers in Go it answers a ping between two writes, so it stops reading while it cannot write.

    Attributes:
        port: What was asked for.
        pings: How many have come.
    """

    def __init__(self, stream: trio.abc.Stream, asked: Asked) -> None:
        self.asked = asked
        self.port = int(asked.target.rpartition("ports=")[2])
        self.pings = 0
        self.stream = stream
        self._lock = trio.Lock()

    async def begin(self) -> None:
        """Agrees."""
        raise NotImplementedError

    def message(self, channel: int, data: bytes) -> bytes:
        """A message: channel 0 is data, 1 what went wrong."""
        raise NotImplementedError

    def end_of_data(self) -> bytes:
        """What ends the data, but not the whole."""
        raise NotImplementedError

    def farewell(self) -> bytes:
        raise NotImplementedError

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """What came from the client: data for the port, and what to reply."""
        raise NotImplementedError

    async def send(self, channel: int, data: bytes) -> None:
        await self.send_raw(self.message(channel, data))

    async def send_raw(self, data: bytes) -> None:
        async with self._lock:
            await self.stream.send_all(data)

    async def receive(self) -> bytes:
        """The data that came next; empty when the client has gone."""
        while True:
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                return b""
            if not data:
                return b""
            content, replies = self.take(bytes(data))
            if replies:
                await self.send_raw(replies)
            if content:
                return content

    async def answer_pings(self, count: int) -> None:
        """Until so many have come, and nothing else."""
        while self.pings < count:
            content, replies = self.take(bytes(await self.stream.receive_some(65536)))
            assert not content
            await self.send_raw(replies)

    async def close(self) -> None:
        await self.send_raw(self.farewell())
        await self.stream.aclose()

    async def relay(self, app: trio.abc.Stream) -> None:
        """Passes on what comes from both sides, until the app or the client ends."""
        async with trio.open_nursery() as nursery:

            async def inwards() -> None:
                while data := await self.receive():
                    await app.send_all(data)
                nursery.cancel_scope.cancel()

            async def outwards() -> None:
                while data := await app.receive_some(32 << 10):
                    await self.send(0, bytes(data))
                await self.close()
                nursery.cancel_scope.cancel()

            nursery.start_soon(inwards)
            nursery.start_soon(outwards)


class WebSocketKubelet(Kubelet):
    """As golang.org/x/net/websocket does it: a message is a frame."""

    def __init__(self, stream: trio.abc.Stream, asked: Asked) -> None:
        super().__init__(stream, asked)
        assert asked.method == "GET"
        assert asked.headers["sec-websocket-protocol"] == "v4.channel.k8s.io"
        self._protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=None)

    async def begin(self) -> None:
        number = self.port.to_bytes(2, "little")
        head = (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(self.asked.headers['sec-websocket-key'])}\r\n"
            "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
        )
        await self.send_raw(head.encode() + self.message(0, number) + self.message(1, number))

    def message(self, channel: int, data: bytes) -> bytes:
        return Frame(Opcode.BINARY, bytes([channel]) + data).serialize(mask=False)

    def end_of_data(self) -> bytes:
        return b""  # is said by the farewell only

    def farewell(self) -> bytes:
        return Frame(Opcode.CLOSE, (1000).to_bytes(2, "big")).serialize(mask=False)

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        content = b""
        self._protocol.receive_data(data)
        assert self._protocol.parser_exc is None, self._protocol.parser_exc
        for frame in self._protocol.events_received():
            assert isinstance(frame, Frame)
            self.pings += frame.opcode is Opcode.PING
            if frame.opcode is Opcode.BINARY:
                assert frame.data[0] == 0, "only data goes that way"
                content += bytes(frame.data[1:])
        return content, b"".join(self._protocol.data_to_send())


class SpdyKubelet(Kubelet):
    """As spdystream does it: data for a stream that has not been answered is dropped."""

    def __init__(self, stream: trio.abc.Stream, asked: Asked) -> None:
        super().__init__(stream, asked)
        assert asked.method == "POST"
        assert asked.headers["x-stream-protocol-version"] == "portforward.k8s.io"
        self._streams: dict[str, int] = {}
        self._inflate = zlib.decompressobj()
        self._deflate = zlib.compressobj()
        self._buffer = b""

    async def begin(self) -> None:
        await self.send_raw(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n"
            b"X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n"
        )
        while len(self._streams) < 2:
            content, replies = self.take(bytes(await self.stream.receive_some(65536)))
            assert not content, "data before the answer"
            await self.send_raw(replies)

    def message(self, channel: int, data: bytes) -> bytes:
        return struct.pack("!II", self._streams["error" if channel else "data"], len(data)) + data

    def farewell(self) -> bytes:
        return self.end_of_data() + struct.pack("!II", self._streams["error"], 1 << 24)

    def end_of_data(self) -> bytes:
        return struct.pack("!II", self._streams["data"], 1 << 24)

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        self._buffer += data
        content = replies = b""
        while len(self._buffer) >= 8:
            head, rest = struct.unpack("!II", self._buffer[:8])
            end = 8 + (rest & 0xFFFFFF)
            if len(self._buffer) < end:
                break
            payload, self._buffer = self._buffer[8:end], self._buffer[end:]
            if head == 0x80030001:  # SYN_STREAM
                number = int.from_bytes(payload[:4], "big")
                headers = self._headers(payload[10:])
                assert headers["port"] == str(self.port)
                assert "requestid" in headers
                self._streams[headers["streamtype"]] = number
                block = self._deflate.compress(struct.pack("!I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
                replies += struct.pack("!III", 0x80030002, 4 + len(block), number) + block
            elif head == 0x80030006:  # PING
                self.pings += 1
                replies += struct.pack("!II", head, rest) + payload
            else:
                assert head == self._streams["data"], "only data goes that way"
                content += payload
        return content, replies

    def _headers(self, packed: bytes) -> dict[str, str]:
        block = self._inflate.decompress(packed)
        texts, start = [], 4
        for _ in range(2 * int.from_bytes(block[:4], "big")):
            end = start + 4 + int.from_bytes(block[start : start + 4], "big")
            texts.append(block[start + 4 : end].decode())
            start = end
        return dict(zip(texts[::2], texts[1::2], strict=True))


def kubelet_for(stream: trio.abc.Stream, asked: Asked) -> Kubelet:
    """The one for what the client asks for."""
    return (SpdyKubelet if asked.headers["upgrade"] == "SPDY/3.1" else WebSocketKubelet)(stream, asked)


async def forward(stream: trio.abc.Stream, asked: Asked) -> Answer | None:
    """Does as an API server and a kubelet do when port-forwarding is asked for: connects to the port here."""
    kubelet = kubelet_for(stream, asked)
    await kubelet.begin()
    try:
        app = await trio.open_tcp_stream("127.0.0.1", kubelet.port)
    except OSError:
        await kubelet.send(
            1,
            f"error forwarding port {kubelet.port} to pod 0123, uid : failed to execute portforward in network "
            f'namespace "/var/run/netns/cni-1": dial tcp4 127.0.0.1:{kubelet.port}: connection refused'.encode(),
        )
        await kubelet.close()
        return None
    async with app:
        await kubelet.relay(app)
    return None


@asynccontextmanager
async def tcp_server(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    """A server whose port it gives; a connection's end is none of a handler's failures."""

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await handler(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        try:
            yield listeners[0].socket.getsockname()[1]
        finally:
            nursery.cancel_scope.cancel()


async def echo(stream: trio.SocketStream) -> None:
    while data := await stream.receive_some(65536):
        await stream.send_all(data)


def access_to(url: str, **more: Any) -> Access:
    """A user of a server, who needs no credentials unless they are given."""
    return Access(server=url, namespace="shop", context="test", **{"credentials": Fixed(None), **more})
