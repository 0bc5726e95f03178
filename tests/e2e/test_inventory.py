"""`mirror ls` and `mirror agents` show what there is, and the latter removes it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from mirror.cli.errors import EXIT_FAILED
from tests.e2e.cluster import MIRROR, WITHIN_S, Cluster, wait_until
from tests.e2e.test_reconnect import BACK, LOST


def run(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*MIRROR, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=cluster.variables, timeout=WITHIN_S, check=False)


def test_targets_as_json(cluster: Cluster) -> None:
    result = run(cluster, "ls", "-n", cluster.namespace, "-o", "json")
    rows = {row["target"]: row for row in json.loads(result.stdout)}
    for name in ("deployment/web", "statefulset/db", "daemonset/logs", "replicaset/rs", "job/load", "service/web"):
        assert rows[name]["ready"] == rows[name]["pods"] == 1, name
        assert rows[name]["available"] is True
    assert rows["cronjob/nightly"]["containers"] == ["app"]
    assert rows["deployment/mesh"]["containers"] == ["istio-proxy", "app"]
    assert f"pod/{cluster.pod_of('web')['metadata']['name']}" in rows
    assert not [name for name in rows if "mirror-agent" in name or name == "job/nightly-1"]


def test_targets_as_a_table(cluster: Cluster) -> None:
    lines = run(cluster, "ls", "-n", cluster.namespace).stdout.splitlines()
    assert lines[0].split() == ["TARGET", "READY", "CONTAINERS"]
    assert ["pod/db-0", "1/1", "app"] in [line.split() for line in lines]


def test_what_may_not_be_listed_is_said(cluster: Cluster, tmp_path: Path) -> None:
    kubeconfig = cluster.as_user("mirror-stranger", tmp_path)
    result = run(cluster, "ls", "-n", cluster.namespace, "--kubeconfig", str(kubeconfig))
    assert result.returncode == EXIT_FAILED
    assert "you lack the right to list cronjobs, daemonsets, deployments" in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_agent_is_shown_and_removed(alone: Cluster) -> None:
    with alone.start("deployment/web", "sh", "-c", "echo begun; exec sleep 1000") as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "begun\n"
            alone.running_agent_pods()
            (row,) = json.loads(run(alone, "agents", "-n", alone.namespace, "-o", "json").stdout)
            pod = alone.pod_of("web")["metadata"]["name"]
            assert row["target"] == f"{alone.namespace}/{pod}/app"
            assert row["state"] == "running"
            table = run(alone, "agents", "-A").stdout
            assert row["job"] in table
            wrong = run(alone, "agents", "-n", alone.namespace, "--remove", "nobody")
            assert wrong.returncode == EXIT_FAILED
            assert "there is no agent nobody" in wrong.stderr
            removed = run(alone, "agents", "-n", alone.namespace, "--remove", row["job"])
            assert removed.stdout == f"{alone.namespace}/{row['job']} is being removed\n"
            # The program lives on, and is told, also if it takes long until there is another.
            assert any(LOST in line for line in program.stdout)
            assert any(BACK in line for line in program.stdout)
            assert program.poll() is None

            def is_another() -> bool:
                return any(job["metadata"]["uid"] != row["uid"] for job in alone.objects("job", alone.agents))

            wait_until(is_another, WITHIN_S, "no other agent is begun")
        finally:
            program.kill()
