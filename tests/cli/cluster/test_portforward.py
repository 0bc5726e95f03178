"""Port-forwards through a server of ours that behaves as API server and kubelet do; tests/e2e has the real ones."""

from __future__ import annotations

import hashlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from mirror.cli.cluster import portforward
from mirror.cli.cluster.api import Api, ApiError, Unreachable, open_api
from mirror.cli.cluster.portforward import PodGone, PortForwardFailed, PortRefused, PortStream, open_port
from mirror.cli.proxy.ports import free_port
from tests.cli.cluster.servers import (
    Answer,
    Asked,
    HttpServer,
    Kubelet,
    access_to,
    echo,
    failure,
    forward,
    http_server,
    kubelet_for,
    tcp_server,
)

WAYS = ["SPDY/3.1", "websocket"]


class Cluster:
    """An API server that lets one way through, and says what `script` wants."""

    def __init__(self, server: HttpServer, api: Api, way: str) -> None:
        self.server = server
        self.api = api
        self.way = way

    @asynccontextmanager
    async def open(self, port: int = 80) -> AsyncIterator[PortStream]:
        stream = await open_port(self.api, "shop", "web", port)
        try:
            yield stream
        finally:
            await stream.aclose()


Script = Callable[[Kubelet], Awaitable[None]]
Open = Callable[..., Any]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cluster(way: str) -> Open:
    """Opens a cluster whose port-forwards go as a script says, or to ports of this machine."""

    @asynccontextmanager
    async def open_cluster(script: Script | None = None, tls: bool = False) -> AsyncIterator[Cluster]:
        async def upgrade(stream: trio.abc.Stream, asked: Asked) -> Answer | None:
            if asked.headers["upgrade"] != way:
                return Answer(502, b"a proxy that does not know this")
            if script is None:
                return await forward(stream, asked)
            kubelet = kubelet_for(stream, asked)
            await kubelet.begin()
            with suppress(trio.BrokenResourceError):
                await script(kubelet)
            return None

        async def handler(asked: Asked) -> Answer:
            return Answer(content={"asked": asked.path})

        context = trust = None
        if tls:
            authority = trustme.CA()
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            authority.issue_cert("127.0.0.1").configure_cert(context)
            trust = ssl.create_default_context()
            authority.configure_trust(trust)
        async with (
            http_server(handler, upgrade=upgrade, tls=context) as server,
            open_api(access_to(server.url, tls=trust)) as api,
        ):
            yield Cluster(server, api, way)

    return open_cluster


async def receive_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    content = b""
    while len(content) < count:
        data = await stream.receive_some(count - len(content))
        assert data, "ended too early"
        content += data
    return content


# --- bytes ------------------------------------------------------------------------------------------------


async def test_there_and_back(cluster: Open) -> None:
    async with tcp_server(echo) as port, cluster() as it, it.open(port) as stream:
        for size in (1, 100, 16384, 65519, 65520, 65521, 1 << 20):
            data = bytes(range(256)) * (size // 256 + 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, data)
                assert await receive_exactly(stream, len(data)) == data
        assert it.server.asked[-1].path == "/api/v1/namespaces/shop/pods/web/portforward"


async def test_any_buffer_and_nothing(cluster: Open) -> None:
    async with tcp_server(echo) as port, cluster() as it, it.open(port) as stream:
        await stream.send_all(b"")
        for data in (b"abc", bytearray(b"abc"), memoryview(b"xabc")[1:]):
            await stream.send_all(data)
            assert await receive_exactly(stream, 3) == b"abc"
        assert stream.write_now(bytearray(b"abc")) == 3
        assert stream.write_now(bytearray(b"")) == 0
        assert await receive_exactly(stream, 3) == b"abc"


async def test_pieces_as_small_as_asked_for(cluster: Open) -> None:
    async def script(kubelet: Kubelet) -> None:
        await kubelet.send_raw(kubelet.message(0, b"hello ") + kubelet.message(0, b"") + kubelet.message(0, b"world"))
        await kubelet.close()

    async with cluster(script) as it, it.open() as stream:
        pieces = []
        while data := await stream.receive_some(4):
            pieces.append(data)
        assert b"".join(pieces) == b"hello world"
        assert max(map(len, pieces)) == 4


async def test_frames_in_pieces(cluster: Open) -> None:
    async def script(kubelet: Kubelet) -> None:
        for byte in kubelet.message(0, b"hello") + kubelet.message(0, b"x" * 1000):
            await kubelet.send_raw(bytes([byte]))
        await kubelet.receive()

    async with cluster(script, tls=True) as it, it.open() as stream:
        assert await receive_exactly(stream, 1005) == b"hello" + b"x" * 1000


async def test_data_is_passed_on_before_its_frame_is_whole(cluster: Open) -> None:
    """SPDY alone can do that; in either, what is left when less is asked for comes next."""
    goes_on = trio.Event()

    async def script(kubelet: Kubelet) -> None:
        message = kubelet.message(0, b"hello, world")
        await kubelet.send_raw(message[:-5])
        await goes_on.wait()
        await kubelet.send_raw(message[-5:])
        await kubelet.receive()

    async with cluster(script, tls=True) as it, it.open() as stream:
        if it.way == "websocket":
            goes_on.set()
        assert await receive_exactly(stream, 5) == b"hello"
        assert await receive_exactly(stream, 2) == b", "
        goes_on.set()
        assert await receive_exactly(stream, 5) == b"world"


async def test_both_directions_full(cluster: Open) -> None:
    """Neither direction waits for the other, though nobody reads what comes back until all is sent."""
    size = 32 << 20
    block = hashlib.shake_256(b"seed").digest(1 << 20)
    async with tcp_server(echo) as port, cluster(tls=True) as it, it.open(port) as stream:
        received = hashlib.sha256()

        async def send() -> None:
            for _ in range(size // len(block)):
                await stream.send_all(block)

        count = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while count < size:
                data = await stream.receive_some()
                assert data
                received.update(data)
                count += len(data)
        assert received.digest() == hashlib.sha256(block * (size // len(block))).digest()


async def test_many_write_at_once(cluster: Open) -> None:
    async with tcp_server(echo) as port, cluster(tls=True) as it, it.open(port) as stream:
        async with trio.open_nursery() as nursery:
            for letter in b"abcdefgh":
                nursery.start_soon(stream.send_all, bytes([letter]) * 100_000)
            data = await receive_exactly(stream, 800_000)
        assert Counter(data) == dict.fromkeys(b"abcdefgh", 100_000)


async def test_what_cannot_be_written_now_is_written_later(cluster: Open) -> None:
    begin = trio.Event()

    async def script(kubelet: Kubelet) -> None:
        await begin.wait()
        count = 0
        while count < total:
            count += len(await kubelet.receive())
        await kubelet.send(0, b"all")

    total = 0
    async with cluster(script, tls=True) as it, it.open() as stream:
        while taken := stream.write_now(b"x" * 100_000):
            total += taken
        assert total > 0
        begin.set()
        assert await stream.receive_some() == b"all"


async def fill(stream: PortStream) -> None:
    """Writes until there is no room and none comes: on a busy machine the kernel moves what was written on later."""
    is_full = False
    while not is_full:
        while stream.write_now(b"x" * 100_000):
            pass
        with trio.move_on_after(1) as waited:
            await stream.wait_send_all_might_not_block()
        is_full = waited.cancelled_caught


async def test_closing_it_while_several_wait_to_write(cluster: Open) -> None:
    """Of whom one is the task that writes what could not be written now."""

    async def script(kubelet: Kubelet) -> None:
        await trio.sleep_forever()

    failed = 0

    async def send() -> None:
        nonlocal failed
        try:
            await stream.send_all(b"x")
        except trio.ClosedResourceError:
            failed += 1

    async with cluster(script, tls=True) as it, it.open() as stream:
        await fill(stream)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert failed == 3


# --- the end ----------------------------------------------------------------------------------------------


async def test_the_port_ends_it(cluster: Open) -> None:
    async def app(stream: trio.SocketStream) -> None:
        await stream.send_all(b"last words")

    async with tcp_server(app) as port, cluster() as it, it.open(port) as stream:
        assert await receive_exactly(stream, 10) == b"last words"
        assert await stream.receive_some() == b""
        assert await stream.receive_some() == b""
        assert stream.failure is None
        with pytest.raises(trio.BrokenResourceError, match="the pod shop/web has ended the connection"):
            await stream.send_all(b"more")
        assert stream.write_now(b"more") == 0


async def test_closing_it_ends_the_port(cluster: Open) -> None:
    ended = trio.Event()

    async def app(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            assert await stream.receive_some() in (b"", b"hello")
            assert await stream.receive_some() == b""
        ended.set()

    async with tcp_server(app) as port, cluster() as it:
        async with it.open(port) as stream:
            await stream.send_all(b"hello")
        await ended.wait()
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
        await stream.aclose()
        assert stream.failure is None


async def test_closing_the_api_closes_it(cluster: Open) -> None:
    async with tcp_server(echo) as port:
        async with cluster() as it:
            stream = await open_port(it.api, "shop", "web", port)
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
        await stream.aclose()


async def test_the_api_server_dies(cluster: Open) -> None:
    async def script(kubelet: Kubelet) -> None:
        await kubelet.send(0, b"hello")
        await trio.aclose_forcefully(kubelet.stream)

    async with cluster(script) as it, it.open() as stream:
        assert await receive_exactly(stream, 5) == b"hello"
        with pytest.raises(trio.BrokenResourceError, match=r"through the API server http.* is lost") as caught:
            await stream.receive_some()
        assert isinstance(stream.failure, Unreachable)
        assert caught.value.__cause__ is stream.failure
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")


# --- what the cluster says --------------------------------------------------------------------------------


async def test_nothing_listens(cluster: Open) -> None:
    port = free_port()
    async with cluster() as it, it.open(port) as stream:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert str(caught.value) == f"nothing listens on port {port} of the pod shop/web"
        assert type(stream.failure) is PortRefused


@pytest.mark.parametrize(
    ("said", "kind", "sentence"),
    [
        (
            "error forwarding port 80 to pod 0: exit status 1: socat[7] E connect(5, 127.0.0.1:80): Connection refused",
            PortRefused,
            "nothing listens on port 80 of the pod shop/web",
        ),
        ('failed to find sandbox "0" in store: not found', PodGone, "the pod shop/web is gone, or does not run"),
        ("sandbox container is not running", PodGone, "the pod shop/web is gone, or does not run"),
        ("network namespace for sandbox 0 is closed", PodGone, "the pod shop/web is gone, or does not run"),
        (
            "something\n else",
            PortForwardFailed,
            "port 80 of the pod shop/web cannot be reached: something else",
        ),
    ],
)
async def test_what_went_wrong(cluster: Open, said: str, kind: type[Exception], sentence: str) -> None:
    async def script(kubelet: Kubelet) -> None:
        await kubelet.send(0, b"before")
        # The runtime ends the data before the kubelet has said why.
        for byte in kubelet.end_of_data() + kubelet.message(1, said.encode()):
            await kubelet.send_raw(bytes([byte]))
        await kubelet.close()

    async with cluster(script) as it, it.open() as stream:
        assert await receive_exactly(stream, 6) == b"before"
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert type(stream.failure) is kind
        assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "rubbish", [b"\xff" * 100, b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 200, b"\x83" + b"\xff" * 64]
)
async def test_rubbish(cluster: Open, rubbish: bytes) -> None:
    async def script(kubelet: Kubelet) -> None:
        await kubelet.send_raw(rubbish)
        await kubelet.receive()

    async with cluster(script) as it:
        with pytest.raises((trio.BrokenResourceError, Unreachable), match="is no port-forward"):
            async with it.open() as stream:  # which may see it already
                await stream.receive_some()


# --- signs of life ----------------------------------------------------------------------------------------


async def test_silence_is_broken_by_pings(cluster: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portforward, "SILENCE_S", 0.05)

    async def script(kubelet: Kubelet) -> None:
        await kubelet.answer_pings(3)
        await kubelet.send(0, b"alive")
        await kubelet.receive()

    async with cluster(script) as it, it.open() as stream:
        assert await stream.receive_some() == b"alive"


async def test_no_sign_of_life(cluster: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portforward, "SILENCE_S", 0.05)
    monkeypatch.setattr(portforward, "SIGN_S", 0.05)

    async def script(kubelet: Kubelet) -> None:
        await trio.sleep_forever()

    async with cluster(script) as it, it.open() as stream:
        with pytest.raises(trio.BrokenResourceError, match=r"is silent since"):
            await stream.receive_some()
        assert isinstance(stream.failure, Unreachable)


async def test_a_ping_does_not_wait_for_room(cluster: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The far side reads nothing until it has been read from: a reader that waited to send would wait for ever."""
    monkeypatch.setattr(portforward, "SILENCE_S", 0.2)
    stuffed = trio.Event()

    async def script(kubelet: Kubelet) -> None:
        await stuffed.wait()
        for _ in range(64):
            await kubelet.send(0, b"x" * 65536)
        await kubelet.receive()

    async with cluster(script, tls=True) as it, it.open() as stream, trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, b"y" * (64 << 20))
        reading = trio.Event()

        async def read() -> None:
            reading.set()
            await receive_exactly(stream, 64 * 65536)
            nursery.cancel_scope.cancel()

        nursery.start_soon(read)
        await reading.wait()
        stuffed.set()


# --- which way --------------------------------------------------------------------------------------------


async def asked_ways(upgrade: Callable[[Asked], Answer]) -> tuple[list[str], Exception]:
    """What was tried, and what came of it."""

    async def refuse(stream: trio.abc.Stream, asked: Asked) -> Answer:
        return upgrade(asked)

    async def handler(asked: Asked) -> None:
        return None

    async with http_server(handler, upgrade=refuse) as server, open_api(access_to(server.url)) as api:
        with pytest.raises((ApiError, Unreachable)) as caught:
            await open_port(api, "shop", "web", 80)
        return [f"{asked.method} {asked.headers['upgrade']}" for asked in server.asked], caught.value


async def test_no_such_pod_is_asked_once() -> None:
    tried, error = await asked_ways(lambda asked: failure(404, "NotFound", 'pods "web" not found'))
    assert tried == ["POST SPDY/3.1"]
    assert isinstance(error, ApiError)
    assert (error.status, error.reason) == (404, "NotFound")


async def test_the_right_to_either_will_do() -> None:
    """And if there is neither, the one that kubectl needs is named."""
    tried, error = await asked_ways(
        lambda asked: failure(403, "Forbidden", f'cannot {"create" if asked.method == "POST" else "get"} "portforward"')
    )
    assert tried == ["POST SPDY/3.1", "GET websocket"]
    assert isinstance(error, ApiError)
    assert error.message == 'cannot create "portforward"'


async def test_a_proxy_refuses_the_first_way_and_the_server_the_second() -> None:
    tried, error = await asked_ways(
        lambda asked: Answer(502, b"what?") if asked.method == "POST" else failure(403, "Forbidden", "cannot get")
    )
    assert len(tried) == 2
    assert isinstance(error, ApiError)
    assert error.message == "cannot get"


async def test_a_server_that_agrees_to_something_else() -> None:
    async def upgrade(stream: trio.abc.Stream, asked: Asked) -> None:
        await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")

    async def handler(asked: Asked) -> None:
        return None

    async with http_server(handler, upgrade=upgrade) as server, open_api(access_to(server.url)) as api:
        with pytest.raises(ApiError, match="forwards no ports"):
            await open_port(api, "shop", "web", 80)
        assert [asked.method for asked in server.asked] == ["POST", "GET"]


async def test_the_connection_of_the_last_request_is_used(cluster: Open, way: str) -> None:
    async with tcp_server(echo) as port, cluster() as it:
        await it.api.get("/version")
        async with it.open(port) as stream:
            await stream.send_all(b"abc")
            assert await receive_exactly(stream, 3) == b"abc"
            assert it.server.connections == 1
            await it.api.get("/version")
            assert it.server.connections == 2
