"""The cluster that `make cluster` brings up is one in which the product's tests mean something."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.commands import SEARCH_PATH
from tests.cluster.places import AGENT_IMAGE, BINARIES, DOMAIN, KUBECONFIG, WORKLOAD_IMAGE

ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BINARIES}{os.pathsep}{SEARCH_PATH}",
    "KUBECONFIG": os.environ.get("KUBECONFIG") or str(KUBECONFIG),
}

pytestmark = pytest.mark.skipif(not os.path.exists(ENVIRONMENT["KUBECONFIG"]), reason="no cluster: run make cluster")

UNPRIVILEGED = {
    "runAsUser": 65534,
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    name = f"mirror-cluster-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    try:
        # Made a moment after the namespace; pods are refused without it.
        kubectl("-n", name, "create", "serviceaccount", "tester")
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


def test_pods_know_services_by_short_and_long_names_and_nothing_else(namespace: str) -> None:
    names = [
        "kubernetes.default",
        f"kubernetes.default.svc.{DOMAIN}",
        "kube-dns.kube-system",
        "nothing",
        f"nothing.{DOMAIN}",
    ]
    code = "\n".join(
        [
            "import socket, sys",
            "for name in sys.argv[1:]:",
            "    try: print(socket.gethostbyname(name))",
            "    except OSError as error: print(error)",
        ]
    )
    printed = printed_by_a_pod(namespace, "names", ["python3", "-c", code, *names])
    unknown = "[Errno -2] Name or service not known"
    assert printed.splitlines() == ["10.96.0.1", "10.96.0.1", "10.96.0.10", unknown, unknown]


def test_pods_have_a_token_that_the_api_server_knows(namespace: str) -> None:
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    authority = f'--cacert {account}/ca.crt -H "Authorization: Bearer $(cat {account}/token)"'
    ask = f"curl -sS {authority} https://kubernetes.default/api/v1/nodes"
    printed = printed_by_a_pod(namespace, "token", ["sh", "-c", ask])
    assert f'User \\"system:serviceaccount:{namespace}:tester\\" cannot list resource \\"nodes\\"' in printed


def test_users_without_rights_are_told_so(namespace: str) -> None:
    for user in ("developer", "colleague"):
        assert kubectl("auth", "can-i", "get", "pods", "--context", user, "-n", namespace, status=1) == "no\n"
    assert kubectl("auth", "can-i", "*", "*", "--all-namespaces").endswith("yes\n")


def test_the_agent_runs_without_any_privilege(namespace: str) -> None:
    arguments = ["--listen", "61337", "--targetless", "--first-client-within", "0.1"]
    run_to_the_end(job(namespace, "agent", AGENT_IMAGE, args=arguments, securityContext=UNPRIVILEGED))


def test_finished_jobs_are_removed_when_their_time_has_come(namespace: str) -> None:
    short = job(namespace, "short", WORKLOAD_IMAGE, command=["true"])
    short["spec"]["ttlSecondsAfterFinished"] = 1
    kubectl("apply", "-f", "-", feed=json.dumps(short))
    deadline = time.monotonic() + 180
    while kubectl("-n", namespace, "get", "job/short", "--ignore-not-found", "-o", "name"):
        assert time.monotonic() < deadline, "it is still there"


def printed_by_a_pod(namespace: str, name: str, command: list[str]) -> str:
    run_to_the_end(job(namespace, name, WORKLOAD_IMAGE, command=command))
    return kubectl("-n", namespace, "logs", f"job/{name}")


def run_to_the_end(item: dict[str, Any]) -> None:
    kubectl("apply", "-f", "-", feed=json.dumps(item))
    name, namespace = item["metadata"]["name"], item["metadata"]["namespace"]
    kubectl("-n", namespace, "wait", "--for=condition=Complete", f"job/{name}", "--timeout=180s")


def job(namespace: str, name: str, image: str, **container: Any) -> dict[str, Any]:
    pod = {
        "serviceAccountName": "tester",
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": image, "imagePullPolicy": "IfNotPresent", **container}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }


def kubectl(*arguments: str, feed: str = "", status: int = 0) -> str:
    done = subprocess.run(
        ["kubectl", *arguments], env=ENVIRONMENT, input=feed, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout
