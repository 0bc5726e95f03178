"""Ports of the user's machine: which are free, and whose they are.

A port is one session's at a time, for as long as that lasts. The kernel would let the programs of two share it: by
SO_REUSEPORT, and it deals out the connections to both; by SO_REUSEADDR, until one of them listens.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket
from pathlib import Path

from mirror.cli.proxy.endpoints import LOOPBACK_IPV4, LOOPBACK_IPV6, family_of, to_python
from mirror.protocol.messages import SocketAddress

_LOWEST_PORT = 10000
"""Below are those of well-known services."""
_TRIES = 100


def claim_port(port: int) -> socket.socket | None:
    """What keeps other sessions off a port of the user's machine, or None if one of them has it.

    A name in the abstract namespace: it belongs to the network namespace, as the port does, and ends with its holder.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0mirror-port-{port}")
    except OSError:
        claim.close()
        return None
    return claim


def free_port() -> int:
    """A port that is free at every address of this machine, and that no connecting socket will be given, if possible.

    The program may close and bind again what it has in its place.
    """
    first = _first_ephemeral_port()
    for _ in range(_TRIES if first > _LOWEST_PORT else 0):
        with contextlib.suppress(OSError):
            return _bind_briefly(_LOWEST_PORT + secrets.randbelow(first - _LOWEST_PORT))
    return _bind_briefly(0)


def _first_ephemeral_port() -> int:
    """From here on the kernel gives ports to sockets that connect; 0 if it does not say."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 0


def _bind_briefly(port: int) -> int:
    """Gives the port back, or what the kernel has chosen for 0. Raises OSError if it is taken."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind(("::", port))
            return int(probe.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:  # no IPv6 here
        probe.bind(("0.0.0.0", port))
        return int(probe.getsockname()[1])


def place(asked: SocketAddress, port: int) -> SocketAddress:
    """The port at the asked address if this machine has that, else at the loopback of its family."""
    with socket.socket(family_of(asked), socket.SOCK_STREAM) as probe:
        try:
            probe.bind(to_python(SocketAddress(asked.address, 0)))
        except OSError:
            return SocketAddress(LOOPBACK_IPV4 if len(asked.address) == 4 else LOOPBACK_IPV6, port)
    return SocketAddress(asked.address, port)
