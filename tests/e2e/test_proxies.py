"""Whole sessions by way of a proxy, which kubeconfig or the environment names; nothing goes around it."""

from __future__ import annotations

import contextlib
import queue
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
import trustme

from mirror.cli.proxy.ports import free_port
from tests.cli.cluster.proxy import Proxy, proxy
from tests.e2e.cluster import WITHIN_S, Cluster
from tests.e2e.test_access import assert_entered, assert_stolen, enter, sections, sentence_of, write
from tests.e2e.test_inventory import run as run_mirror

NOWHERE = "mirror-api.invalid"
"""As what the proxy knows the API server. It has no address, so that whatever gets there has come through the proxy."""
ASKED = {"http": f"CONNECT {NOWHERE}:6443 HTTP/1.1", "https": f"CONNECT {NOWHERE}:6443 HTTP/1.1"}
ASKED["socks5"] = f"{NOWHERE}:6443"
USER = "me:p%40ss"


@contextlib.contextmanager
def running(
    scheme: str, server: tuple[str, int], *, user: str = "", tls: ssl.SSLContext | None = None
) -> Iterator[tuple[Proxy, int]]:
    """A proxy that leads to a server, and its port."""
    begun = queue.SimpleQueue[tuple[Proxy, str, trio.lowlevel.TrioToken]]()
    over = trio.Event()

    async def main() -> None:
        async with proxy(scheme, user, tls, server) as (it, url):
            begun.put((it, url, trio.lowlevel.current_trio_token()))
            await over.wait()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    it, url, token = begun.get(timeout=WITHIN_S)
    try:
        yield it, int(url.rpartition(":")[2])
    finally:
        token.run_sync_soon(over.set)
        thread.join()


def api_server(cluster: Cluster) -> tuple[str, int]:
    """Where it is."""
    url = urlsplit(sections(cluster)[0]["server"])
    assert url.hostname is not None
    return url.hostname, url.port or 443


def behind(cluster: Cluster, path: Path, **more: Any) -> Path:
    """A kubeconfig that says what only a proxy knows the way to."""
    server, user = sections(cluster)
    server |= {"server": f"https://{NOWHERE}:6443", "tls-server-name": api_server(cluster)[0], **more}
    return write(path, cluster, user, server)


@pytest.mark.parametrize(
    ("scheme", "user"), [("http", ""), ("http", USER), ("socks5", ""), ("socks5", USER), ("https", "")]
)
def test_a_proxy_of_the_kubeconfig(cluster: Cluster, scheme: str, user: str, tmp_path: Path) -> None:
    tls, variables = None, {}
    if scheme == "https":
        authority = trustme.CA()
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        authority.cert_pem.write_to_path(tmp_path / "trusted")
        variables["SSL_CERT_FILE"] = str(tmp_path / "trusted")
    expected = user.replace("%40", "@")
    with running(scheme, api_server(cluster), user=expected, tls=tls) as (it, port):
        url = f"{scheme}://{user}{'@' if user else ''}127.0.0.1:{port}"
        kubeconfig = behind(cluster, tmp_path / "kubeconfig", **{"proxy-url": url})
        assert_entered(enter(cluster, kubeconfig, variables=variables))
        assert {*it.asked} == {ASKED[scheme]}


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_requests_of_the_target_through_a_proxy(cluster: Cluster, scheme: str, tmp_path: Path) -> None:
    with running(scheme, api_server(cluster)) as (it, port):
        kubeconfig = behind(cluster, tmp_path / "kubeconfig", **{"proxy-url": f"{scheme}://127.0.0.1:{port}"})
        assert_stolen(cluster, "--kubeconfig", str(kubeconfig))
        assert {*it.asked} == {ASKED[scheme]}


def test_a_proxy_of_the_environment(cluster: Cluster, tmp_path: Path) -> None:
    with running("http", api_server(cluster)) as (it, port):
        variables = {"HTTPS_PROXY": f"http://127.0.0.1:{port}", "NO_PROXY": "elsewhere.invalid"}
        kubeconfig = behind(cluster, tmp_path / "kubeconfig")
        assert_entered(enter(cluster, kubeconfig, variables=variables))
        assert {*it.asked} == {ASKED["http"]}
        it.asked.clear()
        # The server itself, which this machine reaches.
        host, _ = api_server(cluster)
        assert_entered(
            enter(cluster, cluster.kubeconfig, "-n", cluster.namespace, variables={**variables, "NO_PROXY": host})
        )
        assert it.asked == []


def test_what_is_shown_through_a_proxy(cluster: Cluster, tmp_path: Path) -> None:
    with running("http", api_server(cluster)) as (it, port):
        kubeconfig = behind(cluster, tmp_path / "kubeconfig", **{"proxy-url": f"http://127.0.0.1:{port}"})
        shown = run_mirror(cluster, "ls", "--kubeconfig", str(kubeconfig))
        assert ["pod/db-0", "1/1", "app"] in [line.split() for line in shown.stdout.splitlines()], shown.stderr
        assert {*it.asked} == {ASKED["http"]}


# --- proxies that do not lead there -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "said"), [("http", "407 Proxy Authentication Required"), ("socks5", "Invalid username/password")]
)
def test_a_proxy_that_wants_another_password(cluster: Cluster, scheme: str, said: str, tmp_path: Path) -> None:
    with running(scheme, api_server(cluster), user="me:secret") as (_, port):
        url = f"{scheme}://127.0.0.1:{port}"
        kubeconfig = behind(cluster, tmp_path / "kubeconfig", **{"proxy-url": url.replace("//", "//me:wrong@")})
        sentence = sentence_of(enter(cluster, kubeconfig))
    assert sentence == (
        f"the proxy {url} does not lead to the API server https://{NOWHERE}:6443: {said}; correct HTTPS_PROXY or "
        "proxy-url in kubeconfig, or except the server by NO_PROXY"
    )


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_that_does_not_get_there(cluster: Cluster, scheme: str, tmp_path: Path) -> None:
    with running(scheme, ("127.0.0.1", free_port())) as (it, port):
        url = f"{scheme}://127.0.0.1:{port}"
        kubeconfig = behind(cluster, tmp_path / "kubeconfig", **{"proxy-url": url})
        sentence = sentence_of(enter(cluster, kubeconfig))
        assert {*it.asked} == {ASKED[scheme]}
    assert sentence.startswith(f"the proxy {url} does not lead to the API server https://{NOWHERE}:6443: ")


def test_a_proxy_that_is_not_there(cluster: Cluster, tmp_path: Path) -> None:
    port = free_port()
    variables = {"HTTPS_PROXY": f"http://me:secret@127.0.0.1:{port}"}
    assert sentence_of(enter(cluster, behind(cluster, tmp_path / "kubeconfig"), variables=variables)) == (
        f"the proxy http://127.0.0.1:{port} of the context 'shop' is not there, 127.0.0.1:{port} refuses connections: "
        "is it running, and is HTTPS_PROXY or proxy-url in kubeconfig right?"
    )


def test_a_proxy_of_another_kind(cluster: Cluster, tmp_path: Path) -> None:
    kubeconfig = behind(cluster, tmp_path / "kubeconfig", **{"proxy-url": "ftp://127.0.0.1"})
    assert "the proxy ftp://127.0.0.1 cannot be used: write it as http://" in sentence_of(enter(cluster, kubeconfig))
