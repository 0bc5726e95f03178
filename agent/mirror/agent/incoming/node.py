"""From which addresses the target's machine calls it: those of the kubelet's probes.

The kubelet connects from the node's network namespace without choosing an address, so the node's kernel chooses it by
its route to the target. The same kernel is asked here, by connecting a datagram socket there: nothing is sent. On a
bridge that gives the bridge's address, with other networks one of the node's interfaces or tunnels.

What reaches the target from the same address by way of the node (a NodePort that is masqueraded) looks the same.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterable

from mirror.agent.incoming.namespace import NamespaceThread, in_namespace

_ANY_PORT = 9
"""`discard`; nothing is sent there."""


def is_the_nodes_own(net_fd: int | None, node_fd: int | None) -> bool:
    """Whether two open /proc/PID/ns/net are the same network; None: one that is not known to be."""
    return net_fd is not None and node_fd is not None and os.path.sameopenfile(net_fd, node_fd)


def addresses_of_calls_from(node_fd: int, target: NamespaceThread) -> tuple[bytes, ...]:
    """The addresses that the node would call the target from, 4 or 16 bytes each. Blocks for a moment.

    Args:
        node_fd: An open /proc/PID/ns/net of a process of the node's.
        target: A thread in the target's network namespace.

    Raises:
        OSError: The node's network namespace may not be entered.
    """
    own = target.call(local_addresses)
    with in_namespace(node_fd) as node:
        return node.call(_sources, own)


def local_addresses() -> list[bytes]:
    """The addresses of the calling thread's network namespace, but for loopback and link-local ones."""
    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    with contextlib.suppress(OSError), open("/proc/thread-self/net/fib_trie", encoding="ascii") as file:
        found += parse_fib_trie(file)
    with contextlib.suppress(OSError), open("/proc/thread-self/net/if_inet6", encoding="ascii") as file:
        found += [ipaddress.IPv6Address(bytes.fromhex(line.split()[0])) for line in file]
    return [address.packed for address in found if not address.is_loopback and not address.is_link_local]


def parse_fib_trie(lines: Iterable[str]) -> list[ipaddress.IPv4Address]:
    """The local addresses in the text of /proc/net/fib_trie, each once.

    An entry is two lines, `|-- ADDRESS` and `/32 host LOCAL`; each is there once for every table.
    """
    found: dict[ipaddress.IPv4Address, None] = {}
    last = ""
    for line in lines:
        entry = line.strip()
        if entry.startswith("|-- "):
            last = entry.removeprefix("|-- ")
        elif entry == "/32 host LOCAL":
            found[ipaddress.IPv4Address(last)] = None
    return list(found)


def _sources(destinations: Iterable[bytes]) -> tuple[bytes, ...]:
    """From which addresses the calling thread's network namespace reaches these; those out of reach are left out."""
    found: dict[bytes, None] = {}
    for destination in destinations:
        family = socket.AF_INET if len(destination) == 4 else socket.AF_INET6
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect((socket.inet_ntop(family, destination), _ANY_PORT))
            found[socket.inet_pton(family, asking.getsockname()[0])] = None
    return tuple(found)
