"""A proxy for tests, for HTTP (CONNECT) or SOCKS 5."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from tests.cli.cluster.servers import tcp_server


class Proxy:
    """Leads wherever it is asked to, and remembers what it was asked.

    Args:
        user: `NAME:PASSWORD` of who may use it; empty: everybody.
        server: Where it leads whatever it is asked; None: where it is asked to.

    Attributes:
        asked: The first line of each request; of SOCKS, `HOST:PORT`.
        passed_bytes: How many it has passed on, both ways.
    """

    def __init__(self, user: str = "", server: tuple[str, int] | None = None) -> None:
        self.asked: list[str] = []
        self.passed_bytes = 0
        self._user = user
        self._server = server

    async def http(self, stream: trio.abc.Stream) -> None:
        """Serves a connection."""
        head = b""
        while b"\r\n\r\n" not in head:
            if not (byte := await stream.receive_some(1)):
                return
            head += byte
        first, *lines = head.decode().splitlines()
        self.asked.append(first)
        expected = f"Basic {base64.b64encode(self._user.encode()).decode()}"
        given = [line.partition(": ")[2] for line in lines if line.lower().startswith("proxy-authorization:")]
        if self._user and given != [expected]:
            await stream.send_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        host, _, port = first.split()[1].rpartition(":")
        await self._lead(stream, host, int(port), b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 502 Bad Gateway\r\n\r\n")

    async def socks(self, stream: trio.abc.Stream) -> None:
        """Serves a connection: https://www.rfc-editor.org/rfc/rfc1928, and 1929 where it wants a password."""
        count = (await _exactly(stream, 2))[1]
        methods = await _exactly(stream, count)
        method = 2 if self._user else 0
        if method not in methods:
            await stream.send_all(b"\x05\xff")
            return
        await stream.send_all(bytes([5, method]))
        if self._user:
            await _exactly(stream, 1)
            name, password = [await _exactly(stream, (await _exactly(stream, 1))[0]) for _ in range(2)]
            is_known = b":".join((name, password)) == self._user.encode()
            await stream.send_all(b"\x01\x00" if is_known else b"\x01\x01")
            if not is_known:
                return
        head = await _exactly(stream, 4)
        if head[3] == 3:
            host = (await _exactly(stream, (await _exactly(stream, 1))[0])).decode()
        else:
            host = socket.inet_ntoa(await _exactly(stream, 4))
        port = int.from_bytes(await _exactly(stream, 2), "big")
        self.asked.append(f"{host}:{port}")
        rest = b"\x00\x01\x00\x00\x00\x00\x00\x00"
        await self._lead(stream, host, port, b"\x05\x00" + rest, b"\x05\x05" + rest)

    async def _lead(self, stream: trio.abc.Stream, host: str, port: int, success: bytes, refusal: bytes) -> None:
        try:
            server = await trio.open_tcp_stream(*(self._server or (host, port)))
        except OSError:
            await stream.send_all(refusal)
            return
        await stream.send_all(success)
        async with server, trio.open_nursery() as nursery:

            async def copy(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    while data := await source.receive_some(65536):
                        self.passed_bytes += len(data)
                        await sink.send_all(data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(copy, stream, server)
            nursery.start_soon(copy, server, stream)


async def _exactly(stream: trio.abc.Stream, count: int) -> bytes:
    found = b""
    while len(found) < count:
        if not (more := await stream.receive_some(count - len(found))):
            raise trio.BrokenResourceError
        found += more
    return found


@asynccontextmanager
async def proxy(
    scheme: str, user: str = "", tls: ssl.SSLContext | None = None, server: tuple[str, int] | None = None
) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy on loopback, and its URL, with `user` in it."""
    it = Proxy(user, server)

    async def serve(stream: trio.SocketStream) -> None:
        if tls is None:
            await (it.socks if scheme == "socks5" else it.http)(stream)
            return
        secure = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        with suppress(trio.BrokenResourceError):
            await it.http(secure)

    async with tcp_server(serve) as port:
        yield it, f"{scheme}://{user + '@' if user else ''}127.0.0.1:{port}"
