"""Every kind of target leads to a pod, by each way of naming it."""

from __future__ import annotations

import contextlib
import json
import pty
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e import workloads
from tests.e2e.cluster import WITHIN_S, Cluster, wait_until
from tests.e2e.test_inventory import run
from tests.e2e.test_refusals import refusal


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
        ("deployment.apps/web", "web"),
        ("service/web", "web"),
        ("svc/web", "web"),
        ("label/app=web", "web"),
        ("label/app=web,tier!=x", "web"),
        ("label/app in (web, nothing),!tier", "web"),
        ("label/app in (web, db),app!=web", "db"),
        ("statefulset/db", "db"),
        ("sts/db", "db"),
        ("pod/db-0", "db"),
        ("po/db-0", "db"),
        ("daemonset/logs", "logs"),
        ("ds/logs", "logs"),
        ("replicaset/rs", "rs"),
        ("rs/rs", "rs"),
        ("job/load", "load"),
        ("cronjob/nightly", "nightly"),
        ("cj/nightly", "nightly"),
    ],
)
def test_kinds(cluster: Cluster, target: str, app: str) -> None:
    assert pod_seen(cluster, target) == cluster.pod_of(app)["metadata"]["name"]


# --- a choice of pods -------------------------------------------------------------------------------------


@pytest.fixture
def newest_job(cluster: Cluster) -> Iterator[str]:
    """Another job of the cronjob; which one it is, its pod's label `app` says."""
    owner, first = cluster.get("cronjob", "nightly"), cluster.get("job", "nightly-1")
    assert owner is not None
    assert first is not None
    began = first["metadata"]["creationTimestamp"]  # in whole seconds
    wait_until(lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) > began, WITHIN_S, "the clocks differ")
    cluster.apply(workloads.job_of(owner, "nightly-0", "nightly-last"))
    try:
        cluster.wait_ready("nightly-last")
        yield "nightly-last"
    finally:
        cluster.remove("job", "nightly-0")


def test_a_cronjobs_newest_job(cluster: Cluster, newest_job: str) -> None:
    assert pod_seen(cluster, "cronjob/nightly") == cluster.pod_of(newest_job)["metadata"]["name"]


@pytest.fixture
def pair(cluster: Cluster) -> Iterator[list[str]]:
    """The two pods of a Deployment, the one first that has been there for longer."""
    cluster.apply(workloads.PAIR)
    try:
        cluster.wait_ready("pair", count=2)
        pods = [pod["metadata"] for pod in cluster.ready_pods("pair")]
        yield [pod["name"] for pod in sorted(pods, key=lambda pod: (pod["creationTimestamp"], pod["name"]))]
    finally:
        cluster.remove("deployment", "pair")


def told(cluster: Cluster, kubeconfig: Path) -> str:
    """What a user is told of the choice among the pair."""
    result = cluster.run("deployment/pair", "true", options=["-v", "--kubeconfig", str(kubeconfig)])
    (line,) = [line for line in result.stderr.splitlines() if "target is" in line]
    return line.partition(" s  ")[2]


def readiness(cluster: Cluster, *targets: str) -> list[str]:
    """How many of some targets' pods are ready, as `mirror ls` has it, in both of its ways."""
    lines = run(cluster, "ls", "-n", cluster.namespace).stdout.splitlines()
    table = {words[0]: words[1] for words in map(str.split, lines)}
    rows = {row["target"]: row for row in json.loads(run(cluster, "ls", "-n", cluster.namespace, "-o", "json").stdout)}
    for target in targets:
        row = rows[target]
        assert table[target] == f"{row['ready']}/{row['pods']}"
        assert row["available"] is (row["ready"] > 0)
    return [table[target] for target in targets]


def test_everybody_gets_the_same_pod_and_only_a_ready_one(cluster: Cluster, pair: list[str], tmp_path: Path) -> None:
    first, second = pair
    anna, ben = (cluster.as_user(name, tmp_path, "system:masters") for name in ("anna", "ben"))
    choice = f"target is container app of pod {cluster.namespace}/{{}} on node "
    said = told(cluster, anna)
    assert said.startswith(choice.format(first))
    assert said.endswith(", the first of 2 that are ready")
    assert told(cluster, ben) == said
    assert readiness(cluster, "deployment/pair") == ["2/2"]

    cluster.run_in_container(first, "rm", "/tmp/ready")
    wait_until(lambda: len(cluster.ready_pods("pair")) == 1, WITHIN_S, "the pod is still ready")
    said = told(cluster, anna)
    assert said.startswith(choice.format(second))
    assert "that are ready" not in said
    targets = ("deployment/pair", f"pod/{first}", f"pod/{second}")
    assert readiness(cluster, *targets) == ["1/2", "0/1", "1/1"]

    cluster.run_in_container(second, "rm", "/tmp/ready")
    wait_until(lambda: not cluster.ready_pods("pair"), WITHIN_S, "the pod is still ready")
    none = f"none of the 2 pods of deployment/pair in namespace {cluster.namespace} is ready (container app runs, "
    sentence = refusal(cluster, "deployment/pair")
    assert sentence.startswith(none)
    assert sentence.endswith("its readiness probe fails); wait for one, or mend them")
    assert readiness(cluster, "deployment/pair") == ["0/2"]


def test_a_service_that_selects_nothing(cluster: Cluster) -> None:
    cluster.apply(workloads.BARE_SERVICE)
    try:
        assert refusal(cluster, "service/bare") == (
            f"service/bare in namespace {cluster.namespace} selects no pods (it has no selector); name a pod instead"
        )
    finally:
        cluster.remove("service", "bare")


def test_labels_that_no_pod_has(cluster: Cluster) -> None:
    sentence = refusal(cluster, "label/app=web,tier=x")
    assert sentence.startswith(f"no pod in namespace {cluster.namespace} has the labels app=web,tier=x; ")


def test_labels_that_are_none(cluster: Cluster) -> None:
    sentence = refusal(cluster, "label/app in web")
    assert "look for label/app in web" in sentence
    assert "unable to parse requirement" in sentence


# --- rollouts ---------------------------------------------------------------------------------------------


def test_a_cluster_without_rollouts(cluster: Cluster) -> None:
    crd = workloads.ROLLOUT_KIND["metadata"]["name"]
    # Somebody else's test may just have had it removed.
    wait_until(lambda: cluster.get("CustomResourceDefinition", crd) is None, WITHIN_S, "the cluster has Rollouts")
    expected = "this cluster has no rollouts (argoproj.io/v1alpha1); name another kind of target"
    wait_until(lambda: refusal(cluster, "rollout/web") == expected, WITHIN_S, "another reason is told")


@pytest.fixture
def rollouts(cluster: Cluster) -> Iterator[Sequence[str]]:
    """Two Rollouts; their kind too, where the cluster has none."""
    crd = workloads.ROLLOUT_KIND["metadata"]["name"]
    is_ours = cluster.get("CustomResourceDefinition", crd) is None
    if is_ours:
        cluster.apply(workloads.ROLLOUT_KIND)

    def is_established() -> bool:
        conditions = (cluster.get("CustomResourceDefinition", crd) or {}).get("status", {}).get("conditions") or ()
        return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

    try:
        wait_until(is_established, WITHIN_S, "the kind Rollout is not there")
        cluster.apply(workloads.ROLLOUT, workloads.OWN_ROLLOUT)
        yield "rollout/web", "rollout/own"
    finally:
        if is_ours:
            cluster.remove("CustomResourceDefinition", crd)
            wait_until(lambda: cluster.get("CustomResourceDefinition", crd) is None, WITHIN_S, "Rollouts are left")
        else:
            cluster.remove("rollout", "web")
            cluster.remove("rollout", "own")


def test_rollouts(cluster: Cluster, rollouts: Sequence[str]) -> None:
    """One that borrows its pods, and one that has its own."""
    borrowing, own = rollouts
    assert pod_seen(cluster, borrowing) == cluster.pod_of("web")["metadata"]["name"]
    assert pod_seen(cluster, own) == pod_seen(cluster, own.replace("rollout", "ro")) == "db-0"
    assert readiness(cluster, borrowing, own) == ["1/1", "1/1"]


# --- containers -------------------------------------------------------------------------------------------


def test_the_container(cluster: Cluster) -> None:
    """It is the one that is named, or that the pod says to be the default."""
    cluster.apply(workloads.SEVERAL)
    try:
        cluster.wait_ready("several")
        for container, expected in (("", "second"), ("/container/first", "first")):
            result = cluster.run(f"pod/several{container}", "sh", "-c", "echo $WHO")
            assert (result.stdout, result.stderr) == (f"{expected}\n", "")
        assert refusal(cluster, "pod/several/container/prepare") == (
            "container prepare of pod several does not run (Completed with exit status 0); name one that does"
        )
        assert refusal(cluster, "pod/several/container/secnd") == (
            "pod several has no container secnd (did you mean second?); it has first, second, istio-proxy, prepare"
        )
        rows = json.loads(run(cluster, "ls", "-n", cluster.namespace, "-o", "json").stdout)
        (row,) = [row for row in rows if row["target"] == "pod/several"]
        assert row["containers"] == ["first", "second", "istio-proxy"]
    finally:
        cluster.remove("pod", "several")


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
