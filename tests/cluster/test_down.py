"""`make cluster-down` leaves nothing, after a day's work as well as after an interrupted `make cluster`.

With a cluster of its own, beside the one that other tests use.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import kind
from tests.cluster.commands import found
from tests.cluster.places import BINARIES, CACHE, ROOT, WORKLOAD_IMAGE
from tests.cluster.traces import Traces, left_behind, traces

INSTANCE = 9
STATE = CACHE / f"cluster{INSTANCE}"
NODE_ADDRESS = f"10.99.7.{4 * INSTANCE + 2}"
ENVIRONMENT = {**os.environ, "MIRROR_CLUSTER": str(INSTANCE), "KUBECONFIG": str(STATE / "kubeconfig")}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a cluster"),
    pytest.mark.skipif(
        not found("etcd") or not BINARIES.exists(), reason="what clusters are made of: run make cluster"
    ),
    pytest.mark.skipif(kind.docker_runs(), reason="where a Docker engine runs, kind is what removes the cluster"),
]

WORK = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "work"},
            "data": {"index.html": "at work"},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "work"},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": {"app": "work"}},
                "template": {
                    "metadata": {"labels": {"app": "work"}},
                    "spec": {
                        "hostPID": True,
                        "containers": [
                            {
                                "name": "work",
                                "image": WORKLOAD_IMAGE,
                                "command": ["python3", "-m", "http.server", "80", "--directory", "/work"],
                                "securityContext": {"privileged": True},
                                "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1},
                                "volumeMounts": [
                                    {"name": "work", "mountPath": "/work"},
                                    {"name": "memory", "mountPath": "/memory"},
                                ],
                            }
                        ],
                        "volumes": [
                            {"name": "work", "configMap": {"name": "work"}},
                            {"name": "memory", "emptyDir": {"medium": "Memory"}},
                        ],
                    },
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "work"},
            "spec": {"type": "NodePort", "selector": {"app": "work"}, "ports": [{"port": 80, "nodePort": 30080}]},
        },
    ],
}


@pytest.fixture
def before() -> Iterator[Traces]:
    """How the machine was without this cluster; whatever happens, it is without it afterwards."""
    cluster("down")
    yield traces()
    cluster("down")


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("keys", signal.SIGKILL),
        ("node.json", signal.SIGINT),
        ("node.json", signal.SIGKILL),
        ("images.json", signal.SIGTERM),
        ("images.json", signal.SIGKILL),
    ],
)
def test_nothing_stays_of_an_interrupted_make_cluster(before: Traces, stage: str, number: signal.Signals) -> None:
    interrupt(stage, number)
    cluster("down")
    assert_nothing_stays(before)


def test_nothing_stays_of_a_cluster_that_was_used(before: Traces) -> None:
    interrupt("node.json", signal.SIGKILL)
    cluster("up")
    kubectl("apply", "-f", "-", feed=json.dumps(WORK))
    kubectl("rollout", "status", "deployment/work", "--timeout=180s")
    assert fetch(f"http://{NODE_ADDRESS}:30080/") == b"at work"
    kubectl("exec", "deployment/work", "--", "sh", "-c", "setsid sleep 3600 </dev/null >/dev/null 2>&1 &")
    different = left_behind(before, limit=0)
    for what in ("processes", "interfaces", "routes", "addresses", "cgroups", "files"):
        assert different.get(what), f"a cluster has {what}: they would be missed"

    cluster("restart", "kube-scheduler")
    cluster("up")
    assert kubectl("get", "deployment", "work", "-o", "name") == "deployment.apps/work\n", (
        "the second is the same cluster"
    )

    cluster("down")
    assert_nothing_stays(before)
    cluster("down")


def assert_nothing_stays(before: Traces) -> None:
    left = left_behind(before)
    assert not left, "\n".join(f"{kind}: {name}" for kind, names in left.items() for name in sorted(names))


def interrupt(stage: str, number: signal.Signals) -> None:
    """Starts `make cluster` and interrupts it when a file of its state is there."""
    with subprocess.Popen(
        command("up"), cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as making:
        wait_for(STATE / stage, making)
        making.send_signal(number)
        _, said = making.communicate(timeout=180)
    if number == signal.SIGKILL:
        assert making.returncode == -signal.SIGKILL
    else:
        assert making.returncode == 130
        assert said == "make cluster: interrupted; make cluster-down removes what is there\n"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.cluster", *arguments]


def cluster(*arguments: str) -> None:
    done = subprocess.run(command(*arguments), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def kubectl(*arguments: str, feed: str = "") -> str:
    words = [str(BINARIES / "kubectl"), *arguments]
    done = subprocess.run(words, env=ENVIRONMENT, input=feed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fetch(url: str) -> bytes:
    """A page, as soon as the rules that lead to it are there."""
    deadline = time.monotonic() + 180
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with direct.open(url, timeout=10) as page:
                content: bytes = page.read()
                return content
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while not path.exists():
        if process.poll() is not None:
            pytest.fail(f"it has ended already: {process.communicate()[1]}")
        assert time.monotonic() < deadline, f"{path} is not made"
        time.sleep(0.005)
