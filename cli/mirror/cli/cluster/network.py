"""Connections to the API server: sockets, TLS, and what to say when they cannot be had.

httpcore makes its connections here (its `network_backend`), so that the bytes of a connection that has been upgraded
to a WebSocket need not go through it any more, and so that every failure has a sentence.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import trio

from mirror.cli.cluster.access import Access
from mirror.cli.cluster.wire import TlsWire, Wire, reason_of
from mirror.cli.errors import MirrorError

CONNECT_S = 10.0
"""How long a connection may take, its TLS handshake included."""


class Unreachable(MirrorError):
    """The API server cannot be reached; the sentence says why and what to do."""

    is_passing = True


class Network(httpcore.AsyncNetworkBackend):
    """Makes connections for httpcore."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._open: list[Wire] = []

    def close(self) -> None:
        """Closes what is open still: httpcore forgets connections to a SOCKS proxy that leads nowhere."""
        for wire in self._open:
            wire.close()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore. Raises Unreachable."""
        with explained(self._access, host, port):
            with trio.fail_after(timeout or CONNECT_S):
                stream = await trio.open_tcp_stream(host, port)
            _keep_alive(stream.socket)
            wire = Wire(stream)
            self._open = [each for each in self._open if not each.is_closed] + [wire]
            return HttpStream(self._access, wire, host, port)

    async def sleep(self, seconds: float) -> None:
        """See httpcore."""
        await trio.sleep(seconds)


class HttpStream(httpcore.AsyncNetworkStream):
    """A connection for httpcore.

    Attributes:
        wire: The connection itself.
    """

    def __init__(self, access: Access, wire: Wire | TlsWire, host: str, port: int) -> None:
        self.wire = wire
        self._access = access
        self._host = host
        self._port = port

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """See httpcore."""
        with _mapped(httpcore.ReadTimeout, httpcore.ReadError), trio.fail_after(_seconds(timeout)):
            return await self.wire.receive_some(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """See httpcore."""
        with _mapped(httpcore.WriteTimeout, httpcore.WriteError), trio.fail_after(_seconds(timeout)):
            await self.wire.send_all(buffer)

    async def aclose(self) -> None:
        """See httpcore."""
        self.wire.close()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore. Raises Unreachable."""
        if ssl_context is self._access.tls and self._access.server_name:
            server_hostname = self._access.server_name
        wire = TlsWire(self.wire, ssl_context, server_hostname)
        try:
            with explained(self._access, self._host, self._port), trio.fail_after(timeout or CONNECT_S):
                await wire.do_handshake()
        except BaseException:
            wire.close()
            raise
        return HttpStream(self._access, wire, self._host, self._port)

    def get_extra_info(self, info: str) -> Any:
        """See httpcore; `wire` is the connection itself."""
        match info:
            case "wire":
                return self.wire
            case "ssl_object":
                return self.wire.ssl_object
            case "is_readable":
                return self.wire.socket.is_readable()
        return None


@contextmanager
def explained(access: Access, host: str, port: int) -> Iterator[None]:
    """Turns what goes wrong while connecting into Unreachable.

    Args:
        access: Of the API server that it is about.
        host: What is connected to: the API server, or the proxy to it.
        port: Likewise.
    """
    try:
        yield
    except (OSError, trio.TooSlowError, trio.BrokenResourceError) as error:
        raise Unreachable(_sentence(access, host, port, error)) from error


def _sentence(access: Access, host: str, port: int, error: BaseException) -> str:
    place = f"{host}:{port}" if ":" not in host else f"[{host}]:{port}"
    is_proxy = access.proxy is not None
    server = f"the proxy {shown(access.proxy or '')}" if is_proxy else f"the API server {access.server}"
    whose = f" of the context {access.context!r}" if access.context else ""
    correct = "HTTPS_PROXY or proxy-url in kubeconfig" if is_proxy else "the server in kubeconfig"
    cause = _cause(error)
    match cause:
        case ssl.SSLCertVerificationError():
            return (
                f"the certificate of {access.server}{whose} is not trusted: {cause.verify_message}; correct "
                "certificate-authority in kubeconfig, or tls-server-name where it is for another name"
            )
        case ssl.SSLError():
            return f"{access.server}{whose} speaks no TLS with us ({reason_of(cause)}): correct {correct}"
        case socket.gaierror():
            return f"{server}{whose} is not found, its name {host} has no address: correct {correct} or see to your VPN"
        case ConnectionRefusedError():
            return f"{server}{whose} is not there, {place} refuses connections: is it running, and is {correct} right?"
        case trio.TooSlowError() | TimeoutError():
            return f"{server}{whose} does not answer at {place}: see to your network, VPN or firewall, and {correct}"
        case OSError():
            return f"{server}{whose} cannot be reached at {place}: {cause.strerror or cause}; see to your network"
    return f"{server}{whose} ends the connection while it is made: is {correct} right?"


def _cause(error: BaseException) -> BaseException:
    """The system's own error beneath those of trio; of several (one for each address) the last."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[-1]
        elif error.__cause__ is not None and (type(error) is OSError or isinstance(error, trio.BrokenResourceError)):
            error = error.__cause__
        else:
            return error


def shown(url: str) -> str:
    """A URL without the name and password in it."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


@contextmanager
def _mapped(too_slow: type[Exception], broken: type[Exception]) -> Iterator[None]:
    try:
        yield
    except trio.TooSlowError as error:
        raise too_slow(str(error)) from error
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise broken(str(error)) from error


def _seconds(timeout: float | None) -> float:
    return float("inf") if timeout is None else timeout


def _keep_alive(sock: trio.socket.SocketType) -> None:
    """Has the kernel ask every 15 s whether the other side is still there, so that a vanished one is noticed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
