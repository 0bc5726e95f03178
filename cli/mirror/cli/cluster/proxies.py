"""Which proxy leads to the API server. Decisions only.

The rules are those of kubectl, that is of Go's net/http: kubeconfig's `proxy-url` first, else HTTPS_PROXY or HTTP_PROXY
by the server's scheme unless NO_PROXY excludes the server or it is this machine; ALL_PROXY does not count.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from mirror.cli.cluster.kubeconfig import AccessError

SCHEMES = ("http", "https", "socks5", "socks5h")


def proxy_for(server: str, variables: Mapping[str, str], cluster: Mapping[str, Any]) -> str | None:
    """The URL of the proxy to `server`; None: there is none.

    Raises:
        AccessError: The proxy's URL is of no kind that we know.
    """
    url = cluster.get("proxy-url") or _from_environment(server, variables)
    if not url:
        return None
    if "://" not in url:
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise AccessError(f"the proxy {url} cannot be used: write it as http://, https:// or socks5://HOST:PORT")
    return str(url)


def _from_environment(server: str, variables: Mapping[str, str]) -> str | None:
    parts = urlsplit(server)
    name = "HTTPS_PROXY" if parts.scheme == "https" else "HTTP_PROXY"
    url = variables.get(name) or variables.get(name.lower())
    excluded = variables.get("NO_PROXY") or variables.get("no_proxy") or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return None if not url or _goes_directly(parts.hostname or "", port, excluded) else url


def _goes_directly(host: str, port: int, excluded: str) -> bool:
    """Whether NO_PROXY, or being this machine, keeps a host from the proxy."""
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_covers(entry.strip().lower(), host, port, address) for entry in excluded.split(",") if entry.strip())


def _covers(entry: str, host: str, port: int, address: _Address | None) -> bool:
    """Whether an entry of NO_PROXY means a host.

    It may be `*`, a domain (with its subdomains), an address or a network, each with an optional port; a leading dot or
    `*.` means the subdomains alone.
    """
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    if _address(entry) is None and ":" in entry:
        entry, _, number = entry.rpartition(":")
        if number != str(port):
            return False
        entry = entry.removeprefix("[").removesuffix("]")
    if address is not None:
        return _address(entry) == address
    entry = entry.removeprefix("*")
    return host.endswith(entry) if entry.startswith(".") else host == entry or host.endswith(f".{entry}")


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
