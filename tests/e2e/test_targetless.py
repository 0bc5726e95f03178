"""Without a target the program stays what it is, and gets the cluster's names and network."""

from __future__ import annotations

import os
import subprocess

from mirror.cli.errors import EXIT_USAGE
from tests.e2e.cluster import MIRROR, WITHIN_S, Cluster


def test_names_and_network_are_the_clusters(alone: Cluster) -> None:
    with alone.held("targetless", "curl -s -m 60 http://web/") as said:
        (pod,) = alone.running_agent_pods()
    assert said == f"pod, to {pod['status']['podIP']}\n"
    assert not pod["spec"].get("hostPID")
    assert pod["spec"]["containers"][0]["securityContext"]["runAsNonRoot"] is True


def test_the_environment_and_host_name_stay(cluster: Cluster) -> None:
    result = cluster.run("targetless", "sh", "-c", "echo $MODE,$KUBERNETES_SERVICE_HOST; uname -n")
    assert result.stdout == f"user,\n{os.uname().nodename}\n", result.stderr


def test_the_clusters_hosts_file_is_read(cluster: Cluster) -> None:
    assert "cluster.local" in cluster.run("targetless", "cat", "/etc/resolv.conf").stdout


def test_a_forgotten_target_is_told(cluster: Cluster) -> None:
    command = [*MIRROR, "exec", "-n", cluster.namespace, "--", "getent", "hosts", "web"]
    result = subprocess.run(
        command, capture_output=True, text=True, env=cluster.variables, timeout=WITHIN_S, check=False
    )
    assert f"web.{cluster.namespace}.svc" in result.stdout
    assert "no target was named" in result.stderr


def test_there_is_no_traffic_to_be_had(cluster: Cluster) -> None:
    result = cluster.run("targetless", "true", options=["--steal"])
    assert result.returncode == EXIT_USAGE
    assert "without a target" in result.stderr
