"""On which ports of a pod the kubelet asks whether it is well, and how. Pure, and imported before anything slow is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


@dataclasses.dataclass(frozen=True)
class Probes:
    """How a pod is probed.

    Attributes:
        http: Ports asked in plain HTTP, where a probe says that it is one.
        other: Those asked in ways that tell a probe by its caller only: TCP, HTTPS, gRPC.
        are_commands: Whether commands are run in the pod, which may ask at any port of its loopback.
    """

    http: frozenset[int] = frozenset()
    other: frozenset[int] = frozenset()
    are_commands: bool = False


def find_probes(pod: Mapping[str, Any]) -> Probes:
    """The probes of all containers of a pod: they share its ports."""
    found = [*_all(pod)]
    http = {port for port, is_http in found if is_http}
    other = {port for port, is_http in found if not is_http}
    are_commands = any(probe.get("exec") for container in _containers(pod) for probe in _probes(container))
    return Probes(frozenset(http - other), frozenset(other), are_commands)


def _containers(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ())]


def _probes(container: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [container.get(name) or {} for name in _PROBES]


def _all(pod: Mapping[str, Any]) -> Iterator[tuple[int, bool]]:
    """Each port, and whether it is asked in plain HTTP."""
    for container in _containers(pod):
        names = {port.get("name"): port["containerPort"] for port in container.get("ports") or ()}
        for probe in _probes(container):
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
