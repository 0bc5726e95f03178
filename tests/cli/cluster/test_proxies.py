from __future__ import annotations

import pytest

from mirror.cli.cluster.kubeconfig import AccessError
from mirror.cli.cluster.proxies import proxy_for

SERVER = "https://api.shop.example:6443"
P = "http://proxy:3128"


@pytest.mark.parametrize(
    ("server", "variables", "expected"),
    [
        (SERVER, {}, None),
        (SERVER, {"HTTPS_PROXY": P}, P),
        (SERVER, {"https_proxy": P}, P),
        (SERVER, {"HTTPS_PROXY": "http://upper", "https_proxy": P}, "http://upper"),
        (SERVER, {"HTTP_PROXY": P, "ALL_PROXY": P}, None),
        ("http://api.shop.example", {"HTTP_PROXY": P}, P),
        ("http://api.shop.example", {"HTTPS_PROXY": P}, None),
        (SERVER, {"HTTPS_PROXY": "proxy:3128"}, P),
        ("https://localhost:6443", {"HTTPS_PROXY": P}, None),
        ("https://127.0.0.9:6443", {"HTTPS_PROXY": P}, None),
        ("https://[::1]:6443", {"HTTPS_PROXY": P}, None),
    ],
)
def test_environment(server: str, variables: dict[str, str], expected: str | None) -> None:
    assert proxy_for(server, variables, {}) == expected


@pytest.mark.parametrize(
    ("server", "excluded", "is_excluded"),
    [
        (SERVER, "*", True),
        (SERVER, "api.shop.example", True),
        (SERVER, "shop.example", True),
        (SERVER, ".shop.example", True),
        (SERVER, "*.shop.example", True),
        (SERVER, ".api.shop.example", False),
        (SERVER, "op.example", False),
        (SERVER, "API.shop.example", True),
        (SERVER, "a, shop.example ,b", True),
        (SERVER, "shop.example:6443", True),
        (SERVER, "shop.example:443", False),
        ("https://shop.example", "shop.example:443", True),
        (SERVER, "10.0.0.0/8", False),
        ("https://10.1.2.3", "10.0.0.0/8", True),
        ("https://10.1.2.3", "11.0.0.0/8,10.1.2.3", True),
        ("https://10.1.2.3", "10.1.2.3:443", True),
        ("https://10.1.2.3", "10.1.2.3:80", False),
        ("https://10.1.2.3", ".3", False),
        ("https://[fd00::1]:6443", "fd00::/8", True),
        ("https://[fd00::1]:6443", "fd00::1", True),
        ("https://[fd00::1]:6443", "[fd00::1]:6443", True),
        ("https://10.1.2.3", "no/network, ,", False),
    ],
)
def test_no_proxy(server: str, excluded: str, is_excluded: bool) -> None:
    assert proxy_for(server, {"HTTPS_PROXY": P, "NO_PROXY": excluded}, {}) == (None if is_excluded else P)
    assert proxy_for(server, {"HTTPS_PROXY": P, "no_proxy": excluded}, {}) == (None if is_excluded else P)


def test_kubeconfig_goes_before() -> None:
    cluster = {"proxy-url": "socks5://127.0.0.1:1080"}
    variables = {"HTTPS_PROXY": P, "NO_PROXY": "*"}
    assert proxy_for("https://127.0.0.1", variables, cluster) == "socks5://127.0.0.1:1080"


@pytest.mark.parametrize("url", ["ftp://proxy", "http://", "http://proxy:port", "socks4://proxy:1080"])
def test_unusable(url: str) -> None:
    with pytest.raises(AccessError, match=r"cannot be used: write it as http://, https:// or socks5://HOST:PORT"):
        proxy_for(SERVER, {}, {"proxy-url": url})
