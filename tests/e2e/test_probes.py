"""A kubelet's probes are answered by the pod, whatever they are, while the user's program has their ports and does not.

Each probe of a pod asks at a port of its own, all of which are stolen; the program is stopped, as at a breakpoint.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.cluster import WITHIN_S, Cluster, wait_until
from tests.e2e.standing import address_of, answering, server, standing

LIVE, READY, STARTED = PORTS = 8080, 8081, 8082
LISTENS = [f":{port}" for port in PORTS]
Way = Callable[[int, str | int], dict[str, Any]]


def by_http(_: int, name: str | int) -> dict[str, Any]:
    return {"httpGet": {"port": name, "path": "/well"}}


def by_tcp(_: int, name: str | int) -> dict[str, Any]:
    return {"tcpSocket": {"port": name}}


def by_command(port: int, _: str | int) -> dict[str, Any]:
    return {"exec": {"command": ["curl", "-sf", f"http://localhost:{port}/well"]}}


@contextlib.contextmanager
def at_a_breakpoint(cluster: Cluster, way: Way) -> Iterator[None]:
    """The program, stopped, which has stolen all ports of the pod `probed`."""
    # A busy machine does not make it unready: what a probe finds is in the pod's log.
    patience = {"periodSeconds": 1, "timeoutSeconds": 30, "failureThreshold": 30}
    container = {
        "ports": [{"name": "live", "containerPort": LIVE}, {"name": "started", "containerPort": STARTED}],
        "livenessProbe": {**way(LIVE, "live"), **patience},
        "readinessProbe": {**way(READY, READY), **patience},
        "startupProbe": {**way(STARTED, "started"), **patience},
    }
    with standing(cluster, server("probed", *LISTENS, container=container)):
        urls = [f"http://{address_of(cluster, 'probed')}:{port}/" for port in PORTS]
        with answering(cluster, "pod/probed", *LISTENS, options=["--steal"]) as program:
            said = cluster.run_in_pod("curl", "-s", "-m", "60", *urls)
            assert [line.split()[:2] for line in said.splitlines()] == [["user", str(port)] for port in PORTS]
            os.kill(program.pid, signal.SIGSTOP)
            yield


def connections(cluster: Cluster) -> Counter[int]:
    """How many the pod has been given at each port."""
    lines = map(str.split, cluster.log("probed").splitlines())
    return Counter(int(words[1]) for words in lines if words[0] == "connection")


def are_probed(cluster: Cluster, before: Counter[int]) -> bool:
    """Whether the pod has been asked again by the probes that go on, since it had been given so many connections."""
    now = connections(cluster)
    return all(now[port] > before[port] + 1 for port in (LIVE, READY))


def restarts(cluster: Cluster) -> int:
    (status,) = (cluster.get("pod", "probed") or {})["status"]["containerStatuses"]
    return int(status["restartCount"])


@pytest.mark.parametrize("way", [by_http, by_tcp, by_command])
def test_the_pod_answers_its_probes(cluster: Cluster, way: Way) -> None:
    with at_a_breakpoint(cluster, way):
        before = connections(cluster)
        wait_until(lambda: are_probed(cluster, before), WITHIN_S, "the pod is not probed")
        assert cluster.ready_pods("probed")
        assert restarts(cluster) == 0


def test_the_pod_can_start_again(cluster: Cluster) -> None:
    """The session goes on in the next container, whose first probes are answered before that."""
    with at_a_breakpoint(cluster, by_http):
        cluster.kill_containers("probed")
        wait_until(lambda: restarts(cluster) == 1, WITHIN_S, "the container is not started again")
        cluster.wait_ready("probed")
        assert connections(cluster)[STARTED]
        wait_until(cluster.rules, WITHIN_S, "the session does not go on")
        before = connections(cluster)
        wait_until(lambda: are_probed(cluster, before), WITHIN_S, "the pod is not probed any more")
        assert restarts(cluster) == 1
