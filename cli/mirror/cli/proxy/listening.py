"""Which TCP sockets of the user's machine listen or are connected to a port: asked of the kernel, by sock_diag(7).

A socket is known by its inode. Its address does not tell it from the next one there, which may be another session's.

Processes die, descriptors are passed on and closed in ways that no hook sees; the kernel knows. One dump of the
listeners takes about 0.1 ms, and needs no rights.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from mirror.cli.proxy.endpoints import ANY_IPV4, ANY_IPV6, plain
from mirror.protocol.messages import SocketAddress

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_ESTABLISHED_ONLY = 1 << 1
_LISTEN_ONLY = 1 << 10
"""A bit for each state; TCP_ESTABLISHED is 1, TCP_LISTEN is 10."""

_HEADER = struct.Struct("=IHHII")
"""nlmsghdr: length, type, flags, sequence, port."""
_REQUEST = struct.Struct("=BBBxI2x2s44x")
"""inet_diag_req_v2: family, protocol, extensions, states, and of the identity only the destination port, in network
order; 0: any."""
_PLACE = struct.Struct("!4xH2x16s")
"""The start of inet_diag_msg: family, state, timers; source port, destination port, source address."""
_INODE = struct.Struct("=68xI")
"""The last field of inet_diag_msg."""
_BUFFER_BYTES = 64 << 10


def listening() -> dict[int, SocketAddress]:
    """Where the TCP sockets of this network namespace listen, by their inodes.

    Raises:
        OSError: The kernel has no sock_diag for TCP.
    """
    return {**_dump(socket.AF_INET, _LISTEN_ONLY), **_dump(socket.AF_INET6, _LISTEN_ONLY)}


def connected_to(port: int) -> dict[int, SocketAddress]:
    """The near ends of the IPv4 connections to a port, of whatever address, by their inodes.

    Raises:
        OSError: The kernel has no sock_diag for TCP.
    """
    return _dump(socket.AF_INET, _ESTABLISHED_ONLY, port)


def _dump(family: socket.AddressFamily, states: int, to_port: int = 0) -> dict[int, SocketAddress]:
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, states, to_port.to_bytes(2, "big"))
    length = _HEADER.size + len(request)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.send(_HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 0, 0) + request)
        return dict(_answers(netlink, len(ANY_IPV4) if family == socket.AF_INET else len(ANY_IPV6)))


def _answers(netlink: socket.socket, address_bytes: int) -> Iterator[tuple[int, SocketAddress]]:
    while True:
        data = netlink.recv(_BUFFER_BYTES)
        while data:
            length, kind, *_ = _HEADER.unpack_from(data)
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                (number,) = struct.unpack_from("=i", data, _HEADER.size)
                raise OSError(-number, "sock_diag")
            port, address = _PLACE.unpack_from(data, _HEADER.size)
            (inode,) = _INODE.unpack_from(data, _HEADER.size)
            yield inode, plain(SocketAddress(address[:address_bytes], port))
            data = data[(length + 3) & ~3 :]
