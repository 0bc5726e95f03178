from __future__ import annotations

from typing import Any

import pytest

from mirror.cli.cluster.probes import Probes, find_probes
from tests.cli.cluster.objects import pod


def with_probes(**probes: Any) -> dict[str, Any]:
    asked = pod()
    asked["spec"]["containers"][0] |= {"ports": [{"name": "web", "containerPort": 8080}], **probes}
    return asked


@pytest.mark.parametrize(
    ("probe", "probes"),
    [
        ({"httpGet": {"port": 8080, "path": "/ready"}}, Probes(http=frozenset({8080}))),
        ({"httpGet": {"port": "web", "scheme": "HTTP"}}, Probes(http=frozenset({8080}))),
        ({"httpGet": {"port": "8081"}}, Probes(http=frozenset({8081}))),
        ({"httpGet": {"port": 8443, "scheme": "HTTPS"}}, Probes(other=frozenset({8443}))),
        ({"tcpSocket": {"port": "web"}}, Probes(other=frozenset({8080}))),
        ({"grpc": {"port": 9000}}, Probes(other=frozenset({9000}))),
        ({"exec": {"command": ["true"]}}, Probes(are_commands=True)),
        ({"httpGet": {"port": "gone"}}, Probes()),
    ],
)
@pytest.mark.parametrize("name", ["livenessProbe", "readinessProbe", "startupProbe"])
def test_ways_to_ask(name: str, probe: dict[str, Any], probes: Probes) -> None:
    assert find_probes(with_probes(**{name: probe})) == probes


def test_a_port_asked_in_both_ways_is_not_told_by_its_requests() -> None:
    both = with_probes(livenessProbe={"tcpSocket": {"port": 8080}}, readinessProbe={"httpGet": {"port": 8080}})
    assert find_probes(both) == Probes(other=frozenset({8080}))


def test_other_containers_have_the_same_ports() -> None:
    two = with_probes(livenessProbe={"httpGet": {"port": 8080}})
    two["spec"]["initContainers"] = [{"name": "proxy", "readinessProbe": {"httpGet": {"port": 15021}}}]
    assert find_probes(two) == Probes(http=frozenset({8080, 15021}))


def test_none() -> None:
    assert find_probes(pod()) == Probes()
