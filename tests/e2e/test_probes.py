"""A kubelet's probes are answered by the pod, whatever they are, while the user's program has their ports and does not.

Each probe of a pod asks at a port of its own, all of which are stolen; the program is stopped, as at a breakpoint.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
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
def at_a_breakpoint(cluster: Cluster, way: Way) -> Iterator[subprocess.Popen[str]]:
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
            yield program


def connections(cluster: Cluster) -> Counter[int]:
    """How many the pod has been given at each port."""
    lines = map(str.split, cluster.log("probed").splitlines())
    return Counter(int(words[1]) for words in lines if words[0] == "connection")


def restarts(cluster: Cluster) -> int:
    (status,) = (cluster.get("pod", "probed") or {})["status"]["containerStatuses"]
    assert status["ready"]
    return int(status["restartCount"])


@pytest.mark.parametrize("way", [by_http, by_tcp, by_command])
def test_the_pod_answers_its_probes(cluster: Cluster, way: Way) -> None:
    with at_a_breakpoint(cluster, way):
        before = connections(cluster)

        def are_answered() -> bool:
            now = connections(cluster)
            return all(now[port] > before[port] + 1 for port in (LIVE, READY))

        wait_until(are_answered, WITHIN_S, "the pod is not probed")
        assert restarts(cluster) == 0


def test_the_pod_can_start_again(cluster: Cluster) -> None:
    with at_a_breakpoint(cluster, by_http) as program:
        cluster.kill_containers("probed")
        assert program.stdout is not None
        assert any("has ended: the session goes on in pod probed" in line for line in program.stdout)
        cluster.wait_ready("probed")
        wait_until(lambda: all(connections(cluster)[port] > 1 for port in (LIVE, READY)), WITHIN_S, "it is not probed")
        assert connections(cluster)[STARTED]
        assert restarts(cluster) == 1
