"""The sandbox's two networks, the cable between them, and their addresses and routes.

Netlink, so that no command-line tools and no root are needed; its few messages are put together here, since importing
pyroute2 takes longer than everything else that a sandbox does. A netlink socket works on the network namespace in
which it was made: one is made in the pod's before this process leaves it to its first process.

Sources: rtnetlink(7), linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/veth.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from mirror.cli.targets.demo import scene
from mirror.cli.targets.demo.namespaces import CLONE_NEWNET, unshare

_LOOPBACK = 1
"""The index of the first interface of each namespace."""
_CABLE = 100
"""The index of either end of the cable: of no interface that the kernel may have made by itself."""

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, which of them change
_ADDRESS = struct.Struct("=BBBBi")  # struct ifaddrmsg: family, prefix, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, prefixes, tos, table, protocol, scope, type, flags

_NLMSG_ERROR = 2
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
_RTM_NEWLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 20, 24
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_NET_NS_PID = 3, 18, 19
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFF_UP = 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 2  # addresses are usable at once: without it IPv6 waits for a second to see whether they are taken
_RTA_DST, _RTA_GATEWAY = 1, 5
_RT_TABLE_MAIN, _RTPROT_STATIC = 254, 4
_RTN_UNICAST, _RTN_UNREACHABLE = 1, 7


class _Network:
    """The network namespace in which this was made. What a method does is done when it returns, or raises OSError."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)

    def switch_on(self, index: int) -> None:
        """Sets an interface up."""
        self._request(_RTM_NEWLINK, 0, _LINK.pack(0, 0, index, _IFF_UP, _IFF_UP))

    def add_cable(self, name: str, other_name: str, other_pid: int) -> None:
        """Makes a veth pair: one end here, the other in the network of a process."""
        other = _attribute(_IFLA_IFNAME, other_name.encode() + b"\0")
        other += _attribute(_IFLA_NET_NS_PID, struct.pack("=I", other_pid))
        peer = _attribute(_VETH_INFO_PEER, _LINK.pack(0, 0, _CABLE, 0, 0) + other)
        information = _attribute(_IFLA_INFO_KIND, b"veth\0") + _attribute(_IFLA_INFO_DATA, peer)
        attributes = _attribute(_IFLA_IFNAME, name.encode() + b"\0") + _attribute(_IFLA_LINKINFO, information)
        self._request(_RTM_NEWLINK, _NLM_F_CREATE | _NLM_F_EXCL, _LINK.pack(0, 0, _CABLE, 0, 0) + attributes)

    def add_address(self, index: int, address: str, prefix: int | None = None) -> None:
        """Gives an interface an address; without a prefix length, as one of a single machine."""
        family, packed = _pack(address)
        head = _ADDRESS.pack(family, len(packed) * 8 if prefix is None else prefix, _IFA_F_NODAD, 0, index)
        attributes = _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
        self._request(_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_EXCL, head + attributes)

    def add_default_route(self, gateway: str) -> None:
        """Sends what has no other way to a gateway."""
        family, packed = _pack(gateway)
        self._add_route(family, 0, _RTN_UNICAST, _attribute(_RTA_GATEWAY, packed))

    def add_barrier(self, network: str) -> None:
        """Says that there is no way to a network (EHOSTUNREACH)."""
        address, _, prefix = network.partition("/")
        family, packed = _pack(address)
        self._add_route(family, int(prefix), _RTN_UNREACHABLE, _attribute(_RTA_DST, packed))

    def _add_route(self, family: int, prefix: int, kind: int, attributes: bytes) -> None:
        head = _ROUTE.pack(family, prefix, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, 0, kind, 0)
        self._request(_RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_EXCL, head + attributes)

    def _request(self, kind: int, flags: int, body: bytes) -> None:
        length = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(length, kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, 0, 0) + body)
        answer = self._socket.recv(1 << 16)
        _, answer_kind, _, _, _ = _HEADER.unpack_from(answer)
        number = -struct.unpack_from("=i", answer, _HEADER.size)[0] if answer_kind == _NLMSG_ERROR else errno.EPROTO
        if number:
            raise OSError(number, f"netlink: {os.strerror(number)}")

    def close(self) -> None:
        """Forgets the namespace."""
        self._socket.close()


def _attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def _pack(address: str) -> tuple[int, bytes]:
    """Its family and bytes."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


def join(pod_pid: int) -> None:
    """Leaves the pod's network namespace, in which the caller is, for one of its own, and connects the two.

    Args:
        pod_pid: A process that stays in the pod's.

    Raises:
        OSError: The kernel refused.
    """
    pod = _Network()
    unshare(CLONE_NEWNET)
    cluster = _Network()
    for network in (pod, cluster):
        network.switch_on(_LOOPBACK)
    cluster.add_cable("pod0", "eth0", pod_pid)
    for network, address, address_v6 in (
        (cluster, scene.GATEWAY, scene.GATEWAY_V6),
        (pod, scene.POD_ADDRESS, scene.POD_ADDRESS_V6),
    ):
        network.add_address(_CABLE, address, scene.POD_PREFIX)
        network.add_address(_CABLE, address_v6, scene.POD_PREFIX_V6)
        network.switch_on(_CABLE)
    for address in scene.CLUSTER_ADDRESSES:
        cluster.add_address(_LOOPBACK, address)
    pod.add_default_route(scene.GATEWAY)
    pod.add_default_route(scene.GATEWAY_V6)
    pod.add_barrier(scene.UNREACHABLE)
    for network in (pod, cluster):
        network.close()
