"""Ways to the API server, and what is said when there is none."""

from __future__ import annotations

import dataclasses
import select
import socket
import ssl
from typing import Any

import pytest
import trio
import trustme

from mirror.cli.cluster import network
from mirror.cli.cluster.api import Unreachable, open_api
from mirror.cli.cluster.portforward import open_port
from mirror.cli.proxy.ports import free_port
from tests.cli.cluster.proxy import proxy
from tests.cli.cluster.servers import Answer, Asked, access_to, echo, forward, http_server, tcp_server


async def answer_all(asked: Asked) -> Answer:
    return Answer(content={"path": asked.path})


@dataclasses.dataclass
class Certificates:
    theirs: ssl.SSLContext
    ours: ssl.SSLContext


def certificates(name: str = "127.0.0.1", *, is_trusted: bool = True) -> Certificates:
    authority = trustme.CA()
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(theirs)
    ours = ssl.create_default_context()
    (authority if is_trusted else trustme.CA()).configure_trust(ours)
    return Certificates(theirs, ours)


async def sentence(url: str, **access: Any) -> str:
    async with open_api(access_to(url, **access)) as api:
        with pytest.raises(Unreachable) as caught:
            await api.get("/version")
    assert "\n" not in caught.value.sentence
    assert caught.value.sentence.isprintable()
    return caught.value.sentence


# --- no way -----------------------------------------------------------------------------------------------


async def test_nobody_listens() -> None:
    port = free_port()
    assert await sentence(f"https://127.0.0.1:{port}", tls=ssl.create_default_context()) == (
        f"the API server https://127.0.0.1:{port} of the context 'test' is not there, 127.0.0.1:{port} refuses "
        "connections: is it running, and is the server in kubeconfig right?"
    )


async def test_no_such_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def know_nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(trio.socket, "getaddrinfo", know_nobody)  # a real name server may be out of reach
    said = await sentence("http://no-such-host.invalid:6443")
    assert "is not found, its name no-such-host.invalid has no address: correct the server in kubeconfig" in said


async def test_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose backlog is full drops what comes, as a firewall does."""
    monkeypatch.setattr(network, "CONNECT_S", 0.2)
    monkeypatch.setattr("mirror.cli.cluster.api.CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            select.select([listener], [], [])  # it is in the queue, which has room for no other
            assert f"does not answer at 127.0.0.1:{port}: see to your network" in await sentence(
                f"http://127.0.0.1:{port}"
            )


async def test_no_answer_to_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.cli.cluster.api.CONNECT_S", 0.2)

    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with tcp_server(silent) as port:
        assert "does not answer" in await sentence(f"https://127.0.0.1:{port}", tls=ssl.create_default_context())


async def test_a_certificate_that_is_not_trusted() -> None:
    pair = certificates(is_trusted=False)
    async with http_server(answer_all, tls=pair.theirs) as server:
        said = await sentence(server.url, tls=pair.ours)
    assert f"the certificate of {server.url} of the context 'test' is not trusted: unable to get local issuer" in said
    assert "correct certificate-authority in kubeconfig" in said


async def test_a_certificate_for_another_name() -> None:
    pair = certificates("api.example")
    async with http_server(answer_all, tls=pair.theirs) as server:
        assert "is not trusted: IP address mismatch" in await sentence(server.url, tls=pair.ours)
        async with open_api(access_to(server.url, tls=pair.ours, server_name="api.example")) as api:
            assert await api.get("/a") == {"path": "/a"}


async def test_no_tls() -> None:
    async with http_server(answer_all) as server:
        url = server.url.replace("http:", "https:")
        assert "speaks no TLS with us" in await sentence(url, tls=ssl.create_default_context())


async def test_a_connection_closed_at_once() -> None:
    async def close(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with tcp_server(close) as port:
        said = await sentence(f"https://127.0.0.1:{port}", tls=ssl.create_default_context())
    assert "speaks no TLS with us" in said or "ends the connection" in said or "reset" in said


# --- proxies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "socks5", "https"])
async def test_through_a_proxy(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests and port-forwards, with a certificate for another name than the URL's."""
    pair, its = certificates("api.example"), certificates()
    monkeypatch.setattr("mirror.cli.cluster.api.ssl.create_default_context", lambda: its.ours)
    async with (
        http_server(answer_all, upgrade=forward, tls=pair.theirs) as server,
        tcp_server(echo) as port,
        proxy(scheme, tls=its.theirs if scheme == "https" else None) as (it, url),
        open_api(access_to(server.url, tls=pair.ours, server_name="api.example", proxy=url)) as api,
    ):
        assert await api.get("/a") == {"path": "/a"}
        stream = await open_port(api, "shop", "web", port)
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        await stream.aclose()
        place = f"127.0.0.1:{server.port}"
        assert it.asked == [place if scheme == "socks5" else f"CONNECT {place} HTTP/1.1"]


async def test_a_proxy_with_a_password() -> None:
    pair = certificates()
    async with http_server(answer_all, tls=pair.theirs) as server, proxy("http", "me:p@ss") as (_, url):
        port = url.rpartition(":")[2]
        async with open_api(access_to(server.url, tls=pair.ours, proxy=f"http://me:p%40ss@127.0.0.1:{port}")) as api:
            assert await api.get("/a") == {"path": "/a"}
        said = await sentence(server.url, tls=pair.ours, proxy=f"http://127.0.0.1:{port}")
    assert "does not lead to the API server" in said
    assert "407 Proxy Authentication Required; correct HTTPS_PROXY or proxy-url in kubeconfig" in said


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_that_does_not_get_there(scheme: str) -> None:
    async with proxy(scheme) as (_, url):
        said = await sentence(f"https://127.0.0.1:{free_port()}", tls=ssl.create_default_context(), proxy=url)
    assert f"the proxy {url} does not lead to the API server" in said


async def test_no_proxy_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    said = await sentence("https://api.example", tls=ssl.create_default_context(), proxy=url)
    assert f"the proxy {url} of the context 'test' is not there" in said
    assert "is HTTPS_PROXY or proxy-url in kubeconfig right?" in said


async def test_a_proxys_password_is_not_shown() -> None:
    url = f"http://me:secret@127.0.0.1:{free_port()}"
    assert "secret" not in await sentence("https://api.example", tls=ssl.create_default_context(), proxy=url)
