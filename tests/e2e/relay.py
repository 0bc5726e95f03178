"""Stands between `mirror` and the API server, so that a test can break a session's connections and nobody else's."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import trio
import yaml  # type: ignore[import-untyped, unused-ignore]

from mirror.cli.cluster.access import Access, find_access

_READ_BYTES = 64 << 10
_REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


class Relay:
    """Passes TCP connections on.

    Args:
        host: To which server.
        port: To which port of it.

    Attributes:
        port: Where it listens, on loopback.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = host, port
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._silent: set[tuple[socket.socket, socket.socket]] = set()
        self._is_mute = False
        self._is_over = threading.Event()
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    def cut(self) -> None:
        """Ends all connections; new ones are welcome."""
        with self._lock:
            for end in (end for pair in self._pairs for end in pair):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Ends all connections and refuses new ones, as when the server is restarted."""
        self._close_listener()
        self.cut()
        try:
            yield
        finally:
            self._listener = self._listen(self.port)

    def silence(self) -> None:
        """Passes nothing on in the connections that there are, and ends none, as when a laptop has another network."""
        with self._lock:
            self._silent |= self._pairs

    def mute(self) -> None:
        """The same, and for new connections too, as when a laptop has no network any more."""
        self._is_mute = True
        self.silence()

    def close(self) -> None:
        """Ends everything."""
        self._close_listener()
        self._is_over.set()
        self.cut()

    def kubeconfig(self, original: Path, folder: Path) -> Path:
        """The same cluster for the same user, by way of here."""
        content = yaml.safe_load(original.read_text())
        for each in content["clusters"]:
            server = urlsplit(each["cluster"]["server"])
            each["cluster"]["tls-server-name"] = server.hostname
            each["cluster"]["server"] = f"https://127.0.0.1:{self.port}"
        path = folder / f"kubeconfig-{self.port}"
        path.write_text(yaml.safe_dump(content))
        path.chmod(0o600)
        return path

    # --- inside -------------------------------------------------------------------------------------------

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _close_listener(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(2), which close(2) does not
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                ours, _ = listener.accept()
                threading.Thread(target=self._pass, args=(ours,), daemon=True).start()

    def _pass(self, ours: socket.socket) -> None:
        with ours, contextlib.suppress(OSError), socket.create_connection(self._server) as theirs:
            pair = (ours, theirs)
            with self._lock:
                self._pairs.add(pair)
                if self._is_mute:
                    self._silent.add(pair)
            back = threading.Thread(target=self._pump, args=(theirs, ours, pair), daemon=True)
            back.start()
            self._pump(ours, theirs, pair)
            back.join()
            with self._lock:
                self._pairs.discard(pair)

    def _pump(self, source: socket.socket, sink: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_READ_BYTES):
                self._wait_silent(pair)
                sink.sendall(data)
        self._wait_silent(pair)
        for end in pair:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _wait_silent(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """Until the end, if that is how it is with a connection."""
        if pair in self._silent:
            self._is_over.wait()


def relay_to(kubeconfig: Path) -> Relay:
    """A relay to the API server of a kubeconfig's current context."""
    content = yaml.safe_load(kubeconfig.read_text())
    context = next(each["context"] for each in content["contexts"] if each["name"] == content["current-context"])
    cluster = next(each["cluster"] for each in content["clusters"] if each["name"] == context["cluster"])
    server = urlsplit(cluster["server"])
    assert server.hostname is not None
    return Relay(server.hostname, server.port or 443)


@contextlib.contextmanager
def refusing_upgrades(kubeconfig: Path, folder: Path, protocol: str) -> Iterator[Path]:
    """A proxy before the API server that does not let one protocol through; the kubeconfig of who goes by it."""
    listens: queue.Queue[tuple[int, trio.lowlevel.TrioToken, trio.CancelScope]] = queue.Queue()

    async def main() -> None:
        access = await find_access({"KUBECONFIG": str(kubeconfig)})
        narrow = _Narrow(access, f"Upgrade: {protocol}".encode())
        with trio.CancelScope() as scope:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            listens.put((port, trio.lowlevel.current_trio_token(), scope))
            await trio.serve_listeners(narrow.serve, [listener])

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    port, token, scope = listens.get()
    content = yaml.safe_load(kubeconfig.read_text())
    for each in content["clusters"]:
        each["cluster"] = {"server": f"http://127.0.0.1:{port}"}
    path = folder / f"kubeconfig-{port}"
    path.write_text(yaml.safe_dump(content))
    path.chmod(0o600)
    try:
        yield path
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join()


class _Narrow:
    """Passes on what does not hold some words in one piece, as the head of a request does."""

    def __init__(self, access: Access, refused: bytes) -> None:
        self._access = access
        self._refused = refused

    async def serve(self, ours: trio.SocketStream) -> None:
        server = urlsplit(self._access.server)
        assert server.hostname is not None
        assert self._access.tls is not None
        below = await trio.open_tcp_stream(server.hostname, server.port or 443)
        theirs = trio.SSLStream(below, self._access.tls, server_hostname=server.hostname, https_compatible=True)
        one_at_a_time = trio.Lock()

        async def send() -> None:
            while data := await ours.receive_some(_READ_BYTES):
                if self._refused in data:
                    async with one_at_a_time:
                        await ours.send_all(_REFUSAL)
                else:
                    await theirs.send_all(data)

        async def answer() -> None:
            while data := await theirs.receive_some(_READ_BYTES):
                async with one_at_a_time:
                    await ours.send_all(data)

        async def until_over(pump: Callable[[], Awaitable[None]]) -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                await pump()
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(until_over, send)
                nursery.start_soon(until_over, answer)
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(theirs)
