"""A kubelet's probes are answered by the pod, whatever they are, while the user's program has their ports and does not.

The pod has a container for each way to ask, and each of its probes asks at a port of its own. All ports are stolen, and
the program is stopped, as at a breakpoint.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.cluster import WITHIN_S, Cluster, wait_until
from tests.e2e.standing import address_of, answering, server, standing


def by_http(_: int, name: str | int) -> dict[str, Any]:
    return {"httpGet": {"port": name, "path": "/well"}}


def by_tcp(_: int, name: str | int) -> dict[str, Any]:
    return {"tcpSocket": {"port": name}}


def by_command(port: int, _: str | int) -> dict[str, Any]:
    return {"exec": {"command": ["curl", "-sf", f"http://localhost:{port}/well"]}}


WAYS: dict[str, Callable[[int, str | int], dict[str, Any]]] = {"http": by_http, "tcp": by_tcp, "command": by_command}
PORTS = {way: (8080 + number, 8180 + number, 8280 + number) for number, way in enumerate(WAYS)}
"""At which a container is asked whether it lives, whether it is ready, and whether it has started."""
ALL = [port for ports in PORTS.values() for port in ports]


def probed() -> dict[str, Any]:
    """The pod. Some ports are asked for by their names."""
    pod = server("probed")
    (plain,) = pod["spec"].pop("containers")
    pod["spec"]["containers"] = containers = []
    # A busy machine does not make it unready: what a probe finds is in the pod's log.
    patience = {"periodSeconds": 1, "timeoutSeconds": 30, "failureThreshold": 30}
    for way, (live, ready, started) in PORTS.items():
        ask = WAYS[way]
        containers.append(
            {
                **plain,
                "name": way,
                "command": [*plain["command"], *(f":{port}" for port in (live, ready, started))],
                "ports": [
                    {"name": f"{way}-live", "containerPort": live},
                    {"name": f"{way}-start", "containerPort": started},
                ],
                "livenessProbe": {**ask(live, f"{way}-live"), **patience},
                "readinessProbe": {**ask(ready, ready), **patience},
                "startupProbe": {**ask(started, f"{way}-start"), **patience},
            }
        )
    return pod


@pytest.fixture
def at_a_breakpoint(cluster: Cluster) -> Iterator[None]:
    """The program, stopped, which has stolen all ports of the pod."""
    places = [f":{port}" for port in ALL]
    with standing(cluster, probed()):
        urls = [f"http://{address_of(cluster, 'probed')}:{port}/" for port in ALL]
        with answering(cluster, "pod/probed", *places, options=["--steal"]) as program:
            said = cluster.run_in_pod("curl", "-s", "-m", "60", *urls)
            assert [line.split()[:2] for line in said.splitlines()] == [["user", str(port)] for port in ALL]
            os.kill(program.pid, signal.SIGSTOP)
            yield


def connections(cluster: Cluster) -> Counter[int]:
    """How many the containers have been given at each port."""
    lines = [line.split() for way in WAYS for line in cluster.log("probed", way).splitlines()]
    return Counter(int(words[1]) for words in lines if words[0] == "connection")


def wait_probed(cluster: Cluster) -> None:
    """Until all probes that go on have asked again."""
    before = connections(cluster)

    def are_more() -> bool:
        now = connections(cluster)
        return all(now[port] > before[port] + 1 for live, ready, _ in PORTS.values() for port in (live, ready))

    wait_until(are_more, WITHIN_S, "the pod is not probed")


def restarts(cluster: Cluster) -> list[int]:
    statuses = (cluster.get("pod", "probed") or {})["status"]["containerStatuses"]
    return [status["restartCount"] for status in statuses]


def test_the_pod_answers_its_probes(cluster: Cluster, at_a_breakpoint: None) -> None:
    wait_probed(cluster)
    assert cluster.ready_pods("probed")
    assert restarts(cluster) == [0, 0, 0]


def test_the_pod_can_start_again(cluster: Cluster, at_a_breakpoint: None) -> None:
    """Its first probes are answered before the session goes on in the next container."""
    cluster.kill_containers("probed")
    wait_until(lambda: restarts(cluster) == [1, 1, 1], WITHIN_S, "the containers are not started again")
    cluster.wait_ready("probed")
    assert all(connections(cluster)[started] for _, _, started in PORTS.values())
    wait_until(cluster.rules, WITHIN_S, "the session does not go on")
    wait_probed(cluster)
    assert restarts(cluster) == [1, 1, 1]
