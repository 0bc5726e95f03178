"""Whether the target's own process serves a port for callers from outside, asked of the kernel by proc(5)."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable

_LISTEN = "0A"
"""TCP_LISTEN (net/tcp_states.h)."""


def is_served_outside(port: int) -> bool:
    """Whether anybody in the calling thread's network namespace listens on a port beyond loopback."""
    return any(not address.is_loopback for address, listening in _listeners() if listening == port)


def _listeners() -> Iterable[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
    for table in "tcp", "tcp6":
        try:
            with open(f"/proc/thread-self/net/{table}") as lines:
                next(lines, "")  # the headings
                for line in lines:
                    _, local, _, state, _ = line.split(maxsplit=4)
                    if state != _LISTEN:
                        break  # the kernel names the listeners first, and there may be thousands of connections
                    yield _parse(local)
        except OSError:  # no /proc, or no IPv6: nothing that could be told
            continue


def _parse(local: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """An address as the kernel prints it, in words of its own byte order, and a port."""
    address, _, port = local.partition(":")
    words = [int(address[start : start + 8], 16) for start in range(0, len(address), 8)]
    parsed = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed, int(port, 16)
