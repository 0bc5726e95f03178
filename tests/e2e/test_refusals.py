"""What the cluster refuses is one sentence, within seconds, and nothing stays behind."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror.cli.cluster.api import Api
from mirror.cli.errors import EXIT_FAILED, EXIT_USAGE
from tests.cluster.places import WORKLOAD_IMAGE
from tests.e2e import workloads
from tests.e2e.cluster import WITHIN_S, Cluster, wait_until


def refusal(cluster: Cluster, target: str, *options: str, status: int = EXIT_FAILED, **how: Any) -> str:
    """The sentence; the program is not started."""
    result = cluster.run(target, "echo", "begun", options=options, **how)
    assert result.stdout == ""
    assert result.returncode == status
    assert result.stderr.startswith("mirror: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.removeprefix("mirror: ").rstrip()


def test_no_such_pod(cluster: Cluster) -> None:
    assert "there is no pod/db-1 in namespace" in (sentence := refusal(cluster, "pod/db-1"))
    assert "did you mean db-0" in sentence


def test_no_such_deployment(cluster: Cluster) -> None:
    assert "did you mean web?" in refusal(cluster, "deployment/wbe")


def test_no_such_namespace(cluster: Cluster) -> None:
    assert "there is no namespace mirror-nowhere" in refusal(cluster, "deployment/web", "-n", "mirror-nowhere")


def test_no_such_container(cluster: Cluster) -> None:
    assert "has no container ap (did you mean app?); it has app" in refusal(cluster, "deployment/web/container/ap")


def test_no_target_at_all(cluster: Cluster) -> None:
    assert "is no target" in refusal(cluster, "deployments", status=EXIT_USAGE)


def test_no_such_context(cluster: Cluster) -> None:
    sentence = refusal(cluster, "deployment/web", "--context", "mirror-elsewhere", status=EXIT_USAGE)
    assert "mirror-elsewhere" in sentence


@pytest.fixture(scope="module")
def unready(cluster: Cluster) -> Iterator[None]:
    def is_crashing() -> bool:
        pods = cluster.objects("pod", "app=sick")
        return any(
            (status.get("state") or {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"
            for pod in pods
            for status in pod["status"].get("containerStatuses") or ()
        )

    cluster.apply(workloads.SICK, workloads.IDLE)
    wait_until(is_crashing, WITHIN_S, "the sick pod does not crash")
    yield
    for thing in (workloads.SICK, workloads.IDLE):
        cluster.remove("deployment", thing["metadata"]["name"])


@pytest.mark.usefixtures("unready")
def test_no_ready_pod(cluster: Cluster) -> None:
    def is_told() -> bool:
        """Not while the container runs, for a moment each time."""
        sentence = refusal(cluster, "deployment/sick")
        return "is not ready (container app: " in sentence and "exit status 3" in sentence

    wait_until(is_told, WITHIN_S, "another reason is told")
    assert "deployment/idle --replicas=1` gives it a pod" in refusal(cluster, "deployment/idle")


def test_a_missing_image(alone: Cluster) -> None:
    # Nobody listens there, so the node knows at once.
    image = "127.0.0.1:1/none:1"
    sentence = refusal(alone, "deployment/web", "-i", image)
    assert f"the agent's image {image} cannot be pulled" in sentence
    assert "--agent-image" in sentence


def test_an_image_that_may_not_be_pulled(alone: Cluster, tmp_path: Path) -> None:
    file = settings(tmp_path, image="mirror-none:1", image_pull_policy="Never")
    assert "is not on the node and may not be pulled" in refusal(alone, "deployment/web", "-f", file)


def test_an_image_of_something_else(alone: Cluster) -> None:
    assert "is its image an agent's?" in refusal(alone, "deployment/web", "-i", WORKLOAD_IMAGE)


def test_more_than_the_node_has(alone: Cluster, tmp_path: Path) -> None:
    file = settings(tmp_path, resources={"requests": {"cpu": "1000"}})
    sentence = refusal(alone, "deployment/web", "-f", file)
    assert "the agent's pod cannot be scheduled" in sentence
    assert "Insufficient cpu" in sentence


def test_a_node_selector_that_no_node_has(alone: Cluster, tmp_path: Path) -> None:
    file = settings(tmp_path, node_selector={"mirror-e2e": "nowhere"})
    sentence = refusal(alone, "targetless", "-f", file)
    assert "the agent's pod cannot be scheduled" in sentence
    assert "correct agent.node_selector" in sentence


@pytest.fixture
def ghost(alone: Cluster) -> Iterator[str]:
    """A ready pod, as far as the cluster knows, on a node that there never was; both have the same name."""
    name = f"mirror-ghost-{uuid.uuid4().hex[:8]}"
    ready = {"type": "Ready", "status": "True"}
    # Nobody else's pods go there: they are not tolerant, or ask for more.
    taint = {"key": "mirror-e2e", "value": "ghost", "effect": "NoSchedule"}
    room = {"cpu": "5m", "memory": "8Mi", "pods": "10"}
    container = {"name": "app", "image": WORKLOAD_IMAGE}
    running = {"name": "app", "ready": True, "restartCount": 0, "image": WORKLOAD_IMAGE, "imageID": ""}
    running |= {"containerID": "containerd://0123abc", "state": {"running": {}}}
    pods = f"/api/v1/namespaces/{alone.namespace}/pods"
    common = {"apiVersion": "v1", "metadata": {"name": name}}
    spec = {"nodeName": name, "terminationGracePeriodSeconds": 0, "tolerations": [{"operator": "Exists"}]}
    alone.apply(
        {**common, "kind": "Node", "spec": {"taints": [taint]}},
        {**common, "kind": "Pod", "spec": {**spec, "containers": [container]}},
    )

    async def pretend(api: Api) -> None:
        status = {"capacity": room, "allocatable": room, "conditions": [ready]}
        await api.patch(f"/api/v1/nodes/{name}/status", {"status": status})
        status = {"phase": "Running", "conditions": [ready], "containerStatuses": [running]}
        await api.patch(f"{pods}/{name}/status", {"status": status})

    alone.ask(pretend)
    yield name
    alone.remove("pod", name)
    alone.remove("Node", name)  # whereupon the cluster forgets the agent's pod, which no kubelet ends


def test_a_node_that_is_silent(alone: Cluster, ghost: str, tmp_path: Path) -> None:
    file = settings(tmp_path, resources={"requests": {"cpu": "1m", "memory": "1Mi"}})

    async def fall_silent(api: Api) -> None:
        silent = {"type": "Ready", "status": "Unknown", "message": "Kubelet stopped posting node status."}
        await api.patch(f"/api/v1/nodes/{ghost}/status", {"status": {"conditions": [silent]}})

    with alone.start(f"pod/{ghost}", "echo", "begun", options=["-v", "-f", file]) as program:
        assert program.stdout is not None
        for line in program.stdout:
            if f"on node {ghost}" in line:
                break
        alone.ask(fall_silent)
        said = program.stdout.read()
    assert program.returncode == EXIT_FAILED
    assert f"mirror: node {ghost} is not ready (Kubelet stopped posting node status)" in said
    assert "choose a pod on another node" in said


def test_a_quota(alone: Cluster) -> None:
    # Those that are there may stay.
    quota = {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "0"}}}
    alone.apply({"apiVersion": "v1", "kind": "ResourceQuota", **quota})

    def is_counted() -> bool:
        found = alone.get("resourcequota", "small") or {}
        return bool(found.get("status", {}).get("used"))

    try:
        wait_until(is_counted, WITHIN_S, "the quota is not in force")
        sentence = refusal(alone, "deployment/web")
    finally:
        alone.remove("resourcequota", "small")
    assert f"the quota small of namespace {alone.namespace} refuses the agent's pod" in sentence
    assert "--agent-namespace" in sentence


def settings(folder: Path, **agent: Any) -> str:
    """A configuration file with settings of the agent."""
    file = folder / "mirror.json"
    file.write_text(json.dumps({"agent": agent}))
    return str(file)
