"""On which ports of a pod the kubelet asks whether it is well, and how. Pure, and imported before anything slow is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


@dataclasses.dataclass(frozen=True)
class Probes:
    """Ports with probes.

    Attributes:
        http: Those asked in plain HTTP, where a probe says that it is one.
        other: Those asked in ways that tell a probe by its caller only: TCP, HTTPS, gRPC.
    """

    http: frozenset[int] = frozenset()
    other: frozenset[int] = frozenset()


def find_probes(pod: Mapping[str, Any]) -> Probes:
    """The probes of all containers of a pod: they share its ports."""
    found = [*_all(pod)]
    http = {port for port, is_http in found if is_http}
    other = {port for port, is_http in found if not is_http}
    return Probes(frozenset(http - other), frozenset(other))


def _all(pod: Mapping[str, Any]) -> Iterator[tuple[int, bool]]:
    """Each port, and whether it is asked in plain HTTP."""
    containers = [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ())]
    for container in containers:
        names = {port.get("name"): port["containerPort"] for port in container.get("ports") or ()}
        for probe in (container.get(name) or {} for name in _PROBES):
            for way, port in _ports(probe):
                number = names.get(port, 0) if isinstance(port, str) and not port.isdecimal() else int(port)
                if number:
                    yield number, way == "HTTP"


def _ports(probe: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    if http := probe.get("httpGet"):
        yield http.get("scheme", "HTTP").upper(), http["port"]
    if tcp := probe.get("tcpSocket"):
        yield "TCP", tcp["port"]
    if grpc := probe.get("grpc"):
        yield "gRPC", grpc["port"]
