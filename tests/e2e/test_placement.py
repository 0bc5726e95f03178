"""Agents run where the settings say: in another namespace than the target's, with what is theirs alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import WITHIN_S, Cluster, wait_until


@pytest.fixture
def elsewhere(cluster: Cluster) -> Iterator[str]:
    """A second namespace."""
    name = f"{cluster.namespace}-agents"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "agents"}}
    cluster.apply(account, namespace=name)
    wait_until(
        lambda: cluster.get("serviceaccount", "default", namespace=name), WITHIN_S, "there is no service account"
    )
    yield name
    cluster.remove("Namespace", name)
    wait_until(lambda: cluster.get("Namespace", name) is None, 2 * WITHIN_S, f"namespace {name} is left")


def test_another_namespace_and_more(alone: Cluster, elsewhere: str, tmp_path: Path) -> None:
    file = tmp_path / "mirror.json"
    agent = {
        "labels": {"team": "shop"},
        "annotations": {"note": "test"},
        "service_account": "agents",
        "resources": {"requests": {"cpu": "5m"}},
        "grace": 0,
    }
    file.write_text(json.dumps({"agent": agent}))
    with alone.start(
        "deployment/web", "sh", "-c", "echo $COLOUR; exec sleep 1000", options=["-f", str(file), "-a", elsewhere]
    ) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "blue\n"
            assert alone.agent_pods() == []
            (pod,) = alone.objects("pod", alone.agents, namespace=elsewhere)
        finally:
            program.kill()
    assert pod["metadata"]["labels"]["team"] == "shop"
    assert pod["metadata"]["annotations"]["note"] == "test"
    assert pod["spec"]["serviceAccountName"] == "agents"
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "5m"}}
    wait_until(lambda: not alone.objects("job", alone.agents, namespace=elsewhere), WITHIN_S, "an agent is left")
