"""`kubectl mirror ...` is the same program, as a plugin that the real kubectl finds on PATH."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.cli.errors import EXIT_FAILED, EXIT_USAGE
from tests.cluster.places import BINARIES
from tests.e2e.cluster import WITHIN_S, Cluster

Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def kubectl(cluster: Cluster) -> Kubectl:
    """Runs kubectl, the cluster's own if there is one, beside the plugin as it was installed."""
    places = [str(BINARIES), str(Path(sys.executable).parent), os.environ["PATH"]]
    variables = {**cluster.variables, "PATH": os.pathsep.join(places)}
    program = shutil.which("kubectl", path=variables["PATH"])
    assert program is not None

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments], capture_output=True, text=True, env=variables, timeout=2 * WITHIN_S, check=False
        )

    return run


def test_it_is_found(kubectl: Kubectl) -> None:
    assert str(Path(sys.executable).parent / "kubectl-mirror") in kubectl("plugin", "list").stdout.splitlines()


def test_ls(cluster: Cluster, kubectl: Kubectl) -> None:
    lines = kubectl("mirror", "ls", "-n", cluster.namespace).stdout.splitlines()
    assert ["pod/db-0", "1/1", "app"] in [line.split() for line in lines]
    rows = json.loads(kubectl("mirror", "ls", "-n", cluster.namespace, "-o", "json").stdout)
    assert "deployment/web" in [row["target"] for row in rows]


def test_exec(cluster: Cluster, kubectl: Kubectl) -> None:
    script = "echo $POD_NAME; echo complaint >&2; exit 7"
    result = kubectl("mirror", "exec", "-t", "pod/db-0", "-n", cluster.namespace, "--", "sh", "-c", script)
    assert (result.stdout, result.stderr, result.returncode) == ("db-0\n", "complaint\n", 7)


def test_what_fails_is_a_sentence(cluster: Cluster, kubectl: Kubectl) -> None:
    result = kubectl("mirror", "exec", "-t", "pod/db-1", "-n", cluster.namespace, "--", "echo", "begun")
    assert result.returncode == EXIT_FAILED
    assert result.stdout == ""
    assert result.stderr.startswith(f"mirror: there is no pod/db-1 in namespace {cluster.namespace}")
    assert result.stderr.count("\n") == 1


def test_its_help_has_its_name(kubectl: Kubectl) -> None:
    assert kubectl("mirror", "--help").stdout.startswith("Usage: kubectl mirror [OPTIONS] COMMAND")
    assert kubectl("mirror", "exec", "--help").stdout.startswith("Usage: kubectl mirror exec [OPTIONS] --")
    wrong = kubectl("mirror", "ls", "--wrong")
    assert wrong.returncode == EXIT_USAGE
    assert "Try 'kubectl mirror ls --help'" in wrong.stderr
