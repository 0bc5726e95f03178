"""Every kind of target leads to a pod, by each way of naming it."""

from __future__ import annotations

import contextlib
import pty
from collections.abc import Iterator

import pytest

from tests.e2e import workloads
from tests.e2e.cluster import WITHIN_S, Cluster, wait_until


def pod_seen(cluster: Cluster, target: str, *options: str) -> str:
    """The name of the pod that a program finds itself in."""
    result = cluster.run(target, "sh", "-c", "echo $POD_NAME", options=options)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(
    ("target", "app"),
    [
        ("deployment/web", "web"),
        ("deploy/web", "web"),
        ("service/web", "web"),
        ("statefulset/db", "db"),
        ("daemonset/logs", "logs"),
        ("replicaset/rs", "rs"),
        ("job/load", "load"),
        ("cronjob/nightly", "nightly"),
        ("label/app=web", "web"),
        ("pod/db-0", "db"),
    ],
)
def test_kinds(cluster: Cluster, target: str, app: str) -> None:
    assert pod_seen(cluster, target) == cluster.pod_of(app)["metadata"]["name"]


@pytest.fixture
def rollout(cluster: Cluster) -> Iterator[str]:
    """A Rollout; their kind too, where the cluster has none."""
    crd = workloads.ROLLOUT_KIND["metadata"]["name"]
    is_ours = cluster.get("CustomResourceDefinition", crd) is None
    if is_ours:
        cluster.apply(workloads.ROLLOUT_KIND)

    def is_established() -> bool:
        conditions = (cluster.get("CustomResourceDefinition", crd) or {}).get("status", {}).get("conditions") or ()
        return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

    try:
        wait_until(is_established, WITHIN_S, "the kind Rollout is not there")
        cluster.apply(workloads.ROLLOUT)
        yield "rollout/web"
    finally:
        if is_ours:
            cluster.remove("CustomResourceDefinition", crd)
        else:
            cluster.remove("rollout", "web")


def test_a_rollout_that_borrows_its_pods(cluster: Cluster, rollout: str) -> None:
    assert pod_seen(cluster, rollout) == cluster.pod_of("web")["metadata"]["name"]


def test_a_sidecar_is_passed_over(cluster: Cluster) -> None:
    result = cluster.run("deployment/mesh", "sh", "-c", "echo $COLOUR")
    assert result.stdout == "blue\n", result.stderr
    named = cluster.run("deployment/mesh/container/istio-proxy", "sh", "-c", "echo $COLOUR")
    assert named.stdout == "\n", named.stderr


def test_the_choice_is_told(cluster: Cluster) -> None:
    result = cluster.run("deployment/mesh", "true", options=["-v"])
    pod = cluster.pod_of("mesh")["metadata"]["name"]
    choice = f"target is container app of pod {cluster.namespace}/{pod} on node"
    assert choice in result.stderr
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen:
        with open(theirs, "wb", buffering=0) as terminal:
            variables = {**cluster.variables, "TERM": "xterm"}
            shown = cluster.run("deployment/mesh", "true", capture_output=False, stderr=terminal, env=variables)
        assert shown.returncode == 0
        shown_bytes = b""
        with contextlib.suppress(OSError):  # EIO: nobody is left who could write
            while chunk := screen.read(1 << 12):
                shown_bytes += chunk
    (line,) = filter(None, (line.rpartition("\x1b[K")[2] for line in shown_bytes.decode().split("\r\n")))
    assert line.startswith(f"mirror: {choice}")
