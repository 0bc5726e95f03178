"""The pair of interfaces between this machine and the cluster's network namespace, and what is in the namespace."""

from __future__ import annotations

import ipaddress
import json
import sys

from tests.cluster.commands import run
from tests.cluster.places import (
    DNS_ADDRESS,
    HOST_ADDRESS,
    NAME,
    NETWORK,
    NODE_ADDRESS,
    SERVICES,
    ClusterError,
)

LENGTH = NETWORK.rpartition("/")[2]


def check_free() -> None:
    """Sees to it that nothing on this machine uses the network already.

    Raises:
        ClusterError: something does.
    """
    wanted = ipaddress.ip_network(NETWORK)
    for route in json.loads(run(["ip", "-json", "route", "show", "table", "all"])):
        if route["dst"] != "default" and ":" not in route["dst"]:
            taken = ipaddress.ip_network(route["dst"], strict=False)
            if taken.overlaps(wanted):
                raise ClusterError(
                    f"{NETWORK} is in use here (route {taken} dev {route.get('dev')}): take that route away"
                )


def connect(pid: int) -> None:
    """Joins the network namespace of a process with this machine's."""
    names = ["name", NAME, "type", "veth", "peer", "name", "eth0", "netns", str(pid)]
    run(["ip", "link", "add", *names])
    run(["ip", "address", "add", f"{HOST_ADDRESS}/{LENGTH}", "dev", NAME])
    run(["ip", "link", "set", NAME, "up"])
    inside = [
        "link set lo up",
        f"address add {NODE_ADDRESS}/{LENGTH} dev eth0",
        "link set eth0 up",
        # A Service's address must have a route before the rules of kube-proxy replace it; whatever they do not replace
        # ends here. There is no other way out of the cluster.
        "link add services type veth peer name nowhere",
        "link set services up",
        "link set nowhere up",
        f"route add {SERVICES} dev services src {NODE_ADDRESS}",
        "route add unreachable default",
    ]
    run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-batch", "-"], feed="\n".join(inside) + "\n")
    run(["nsenter", f"--net=/proc/{pid}/ns/net", "sysctl", "--quiet", "net.ipv4.ip_forward=1"])


def disconnect() -> None:
    """Removes the pair. The kernel does it too when the namespace goes, at any moment from then on.

    Raises:
        ClusterError: it stays.
    """
    if connected():
        try:
            run(["ip", "link", "delete", NAME])
        except ClusterError:
            if connected():
                raise


def connected() -> bool:
    return any(link["ifname"] == NAME for link in json.loads(run(["ip", "-json", "link", "show"])))


def ask_name_server(pid: int, name: str) -> str:
    """The first address that the cluster's name server has for a name, asked from the node; empty if there is none."""
    question = (
        "import dns.resolver as r, sys; resolver = r.Resolver(configure=False); "
        f"resolver.nameservers = ['{DNS_ADDRESS}']; resolver.lifetime = 1; print(resolver.resolve(sys.argv[1])[0])"
    )
    try:
        return run(["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-c", question, name]).strip()
    except ClusterError:
        return ""
