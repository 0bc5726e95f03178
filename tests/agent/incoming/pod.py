"""Run inside `unshare --user --net --keep-caps`: two network namespaces, and sockets from each on demand.

    target  10.99.0.1  fd99::1  ─── veth ───  10.99.0.2  fd99::2  caller
                                              10.99.0.77

A socket belongs to the namespace in which it was made, so the tests ask for sockets here and use them where they are.
10.98.0.0/24 is routed from the caller through the target, which has no way there.

Each request is a JSON line on a socket of its own; the answer is JSON too, with a descriptor beside it for a socket.

    {"socket": [family, type]}      {}  and the socket
    {"run": [program, ...]}         {"status": ..., "output": ...}
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys

_CLONE_NEWNET = 0x40000000


def main() -> None:
    target, caller = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    ready_r, ready_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        target.close()
        assert ctypes.CDLL(None).unshare(_CLONE_NEWNET) == 0
        os.write(ready_w, b"x")
        _wait_for_line(caller)
        configure("caller0", "10.99.0.2", "fd99::2")
        add_address("caller0", "10.99.0.77")
        route_through_target("10.98.0.0/24")
        caller.sendall(b"{}\n")
        serve(caller)
        return
    caller.close()
    os.read(ready_r, 1)
    make_veth(pid)
    configure("target0", "10.99.0.1", "fd99::1")
    target.sendall(b"{}\n")
    serve(target)


def make_veth(peer_pid: int) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.link(
            "add", ifname="target0", kind="veth", peer={"ifname": "caller0", "net_ns_fd": f"/proc/{peer_pid}/ns/net"}
        )


def configure(interface: str, address4: str, address6: str) -> None:
    from pyroute2 import IPRoute

    # An address is usable at once, without the second that duplicate detection takes.
    for name in "all", "default", interface:
        with open(f"/proc/sys/net/ipv6/conf/{name}/accept_dad", "w") as setting:
            setting.write("0")
    with open("/proc/sys/net/ipv4/ip_forward", "w") as setting:
        setting.write("1")
    with IPRoute() as ip:
        loopback, index = (next(iter(ip.link_lookup(ifname=name))) for name in ("lo", interface))
        for one in loopback, index:
            ip.link("set", index=one, state="up")
        ip.addr("add", index=index, address=address4, prefixlen=24)
        ip.addr("add", index=index, address=address6, prefixlen=64)


def add_address(interface: str, address: str) -> None:
    """One more IPv4 address, which is used only by those who ask for it."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.addr("add", index=next(iter(ip.link_lookup(ifname=interface))), address=address, prefixlen=24)


def route_through_target(destination: str) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.route("add", dst=destination, gateway="10.99.0.1")


def serve(link: socket.socket) -> None:
    while request := _wait_for_line(link):
        match json.loads(request):
            case {"socket": [family, kind]}:
                with socket.socket(family, kind) as made:
                    socket.send_fds(link, [b"{}\n"], [made.fileno()])
            case {"run": command}:
                done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
                link.sendall(json.dumps({"status": done.returncode, "output": done.stdout}).encode() + b"\n")


def _wait_for_line(link: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        piece = link.recv(4096)
        if not piece:
            return b""
        line += piece
    return line


if __name__ == "__main__":
    main()
