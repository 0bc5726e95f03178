"""`mirror doctor` says what will not work, before it is tried."""

from __future__ import annotations

from pathlib import Path

from mirror.cli.errors import EXIT_FAILED
from tests.e2e.cluster import Cluster
from tests.e2e.test_inventory import run
from tests.e2e.test_rights import RULES, USER, rights, without

LEVEL = "pod-security.kubernetes.io/enforce"


def test_all_is_well(cluster: Cluster) -> None:
    result = run(cluster, "doctor", "-n", cluster.namespace)
    assert result.returncode == 0, result.stdout
    assert {line.split()[0] for line in result.stdout.splitlines()} == {"ok", "info"}
    assert f"the cluster admits agents in namespace {cluster.namespace}" in result.stdout
    assert "it is Kubernetes v1." in result.stdout


def test_rights_that_are_missing(cluster: Cluster, tmp_path: Path) -> None:
    kubeconfig = str(cluster.as_user(USER, tmp_path))
    with rights(cluster, without("pods/portforward")):
        needed = run(cluster, "doctor", "-n", cluster.namespace, "--kubeconfig", kubeconfig)
    assert needed.returncode == EXIT_FAILED
    assert f"no   no right to create, get pods/portforward in namespace {cluster.namespace}" in needed.stdout
    with rights(cluster, without("services")):
        useful = run(cluster, "doctor", "-n", cluster.namespace, "--kubeconfig", kubeconfig)
    assert useful.returncode == 0, useful.stdout
    assert "less no right to get services" in useful.stdout
    assert "service/ is no target" in useful.stdout
    assert len(RULES) > 1


def test_a_namespace_that_refuses_agents(cluster: Cluster) -> None:
    name = f"{cluster.namespace}-strict"
    labels = {LEVEL: "baseline"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    try:
        result = run(cluster, "doctor", "-n", name)
    finally:
        cluster.remove("Namespace", name)
    assert result.returncode == EXIT_FAILED
    assert f"PodSecurity baseline of namespace {name} refuses agents" in result.stdout


def test_no_cluster(cluster: Cluster) -> None:
    result = run(cluster, "doctor", "--kubeconfig", "/no/such/file")
    assert result.returncode == EXIT_FAILED
    assert "ok   programs of this machine can be hooked" in result.stdout
    assert "no   " in result.stdout
    assert "/no/such/file" in result.stdout
