"""What `mirror rbac` prints gives what is needed, and a right that is missing is named."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]

from mirror.cli.cluster import agents
from mirror.cli.cluster.rights import role
from mirror.cli.errors import EXIT_FAILED
from mirror.cli.settings import AgentSettings
from tests.cluster.places import AGENT_IMAGE
from tests.e2e.cluster import WITHIN_S, Cluster, wait_until
from tests.e2e.test_inventory import run
from tests.e2e.test_refusals import refusal
from tests.e2e.test_traffic import CALL, SERVER, serving
from tests.e2e.workloads import PORT

USER = "mirror-tester"
ADMIN = "mirror-administrator"
RULES: list[dict[str, Any]] = yaml.safe_load(role("user"))["rules"]
ADMIN_RULES: list[dict[str, Any]] = yaml.safe_load(role("admin"))["rules"]


def without(resource: str, *verbs: str, given: list[dict[str, Any]] = RULES) -> list[dict[str, Any]]:
    """The rules but for a resource, or but for some verbs on it."""
    rules = copy.deepcopy(given)
    for rule in rules:
        if resource in rule["resources"]:
            if verbs:
                rule["verbs"] = [verb for verb in rule["verbs"] if verb not in verbs]
            else:
                rule["resources"].remove(resource)
    return [rule for rule in rules if rule["resources"]]


@contextmanager
def rights(cluster: Cluster, rules: list[dict[str, Any]]) -> Iterator[None]:
    """Gives USER rights in our namespace, and takes them away."""
    with bound(cluster, "Role", "tester", rules, USER):
        yield


@contextmanager
def admin_rights(cluster: Cluster, rules: list[dict[str, Any]]) -> Iterator[None]:
    """Gives ADMIN rights in the whole cluster, and takes them away."""
    with bound(cluster, "ClusterRole", cluster.namespace, rules, ADMIN):
        yield


@contextmanager
def bound(cluster: Cluster, kind: str, name: str, rules: list[dict[str, Any]], user: str) -> Iterator[None]:
    """A Role or ClusterRole, bound to a user."""
    api = "rbac.authorization.k8s.io"
    mark = f"mark-{uuid.uuid4().hex}"
    marking = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": [mark]}
    common = {"apiVersion": f"{api}/v1", "metadata": {"name": name}}
    reference = {"apiGroup": api, "kind": kind, "name": name}
    subject = {"apiGroup": api, "kind": "User", "name": user}
    cluster.apply({**common, "kind": kind, "rules": [*rules, marking]})
    cluster.apply({**common, "kind": f"{kind}Binding", "roleRef": reference, "subjects": [subject]})
    try:
        # The API server goes by them, and without them, a moment after it was told.
        wait_until(lambda: has_right(cluster, user, mark), WITHIN_S, "the rights are not given")
        yield
    finally:
        for each in (f"{kind}Binding", kind):
            cluster.remove(each, name)
        wait_until(lambda: not has_right(cluster, user, mark), WITHIN_S, "the rights are left")


def has_right(cluster: Cluster, user: str, configmap: str) -> bool:
    """Whether a user may get a ConfigMap of our namespace."""
    attributes = {"namespace": cluster.namespace, "verb": "get", "resource": "configmaps", "name": configmap}
    review = {"spec": {"user": user, "resourceAttributes": attributes}}
    answer = cluster.ask(lambda api: api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review))
    return bool(answer["status"]["allowed"])


@pytest.fixture
def kubeconfig(cluster: Cluster, tmp_path: Path) -> str:
    """Of USER, who has no other rights."""
    return str(cluster.as_user(USER, tmp_path))


@pytest.fixture
def admin_kubeconfig(cluster: Cluster, tmp_path: Path) -> str:
    """Of ADMIN, likewise."""
    return str(cluster.as_user(ADMIN, tmp_path))


@pytest.mark.parametrize(
    "target", ["pod/db-0", "deployment/web", "service/web", "job/load", "cronjob/nightly", "label/app=web"]
)
def test_they_are_enough(cluster: Cluster, kubeconfig: str, target: str) -> None:
    with rights(cluster, RULES):
        result = cluster.run(target, "sh", "-c", "echo $COLOUR", options=["--kubeconfig", kubeconfig])
    assert result.stdout == "blue\n", result.stderr
    assert result.stderr == ""


def test_two_users_at_once(alone: Cluster, tmp_path: Path) -> None:
    """One agent serves both; the port that the first has taken the second does not get."""
    first, second = (["--kubeconfig", str(alone.as_user(user, tmp_path)), "--steal"] for user in ("anna", "ben"))
    with bound(alone, "Role", "anna", RULES, "anna"), bound(alone, "Role", "ben", RULES, "ben"):
        with serving(alone, *first, target="deployment/web"):
            joined = alone.run("deployment/web", "sh", "-c", "echo $COLOUR", options=[*second, "-v"])
            assert joined.stdout == "blue\n"
            assert "joining the agent" in joined.stderr
            refused = alone.run("deployment/web", "python3", "-c", SERVER, options=second)
            assert refused.returncode == 1
            assert f"port {PORT} of the target is taken by " in refused.stderr
            assert "Address already in use" in refused.stderr
            assert alone.run_in_pod(*CALL).splitlines()[0] == "user"
            assert len(alone.jobs()) == 1
        with serving(alone, *second, target="deployment/web"):
            assert alone.run_in_pod(*CALL).splitlines()[0] == "user"


def test_without_any(cluster: Cluster, kubeconfig: str) -> None:
    sentence = refusal(cluster, "deployment/web", "--kubeconfig", kubeconfig)
    assert f"user {USER} lacks the right to get deployments.apps in namespace {cluster.namespace}" in sentence
    assert "administrator" in sentence


@pytest.mark.parametrize(
    ("target", "missing", "named"),
    [
        ("deployment/web", "pods", "list pods"),
        ("pod/db-0", "pods", "get pods"),
        ("deployment/web", "deployments", "get deployments.apps"),
        ("statefulset/db", "statefulsets", "get statefulsets.apps"),
        ("service/web", "services", "get services"),
        ("cronjob/nightly", "cronjobs", "get cronjobs.batch"),
        ("job/load", "jobs", "get jobs.batch"),
        ("deployment/web", "pods/portforward", "pods/portforward"),
    ],
)
def test_a_missing_one_is_named(cluster: Cluster, kubeconfig: str, target: str, missing: str, named: str) -> None:
    with rights(cluster, without(missing)):
        sentence = refusal(cluster, target, "--kubeconfig", kubeconfig)
    assert "lacks the right to" in sentence
    assert f"{named} in namespace {cluster.namespace}" in sentence


@pytest.mark.parametrize("verb", ["create", "patch"])
def test_no_right_to_make_an_agent(alone: Cluster, kubeconfig: str, verb: str) -> None:
    with rights(alone, without("jobs", verb)):
        sentence = refusal(alone, "deployment/web", "--kubeconfig", kubeconfig)
    assert f"lacks the right to {verb} jobs.batch in namespace {alone.namespace}" in sentence


# --- administrators ---------------------------------------------------------------------------------------


@pytest.fixture
def agent(alone: Cluster) -> Iterator[str]:
    """The Job of somebody's agent in our namespace; no node takes its pod, so that it goes at once."""
    settings = AgentSettings(node_selector={"mirror-e2e": "nowhere"})
    job = agents.manifest(agents.Wish(None, alone.namespace, ("names",), settings, AGENT_IMAGE))
    alone.apply(job)
    yield job["metadata"]["name"]
    alone.remove("job", job["metadata"]["name"])


def test_administrators_see_and_remove_agents_everywhere(cluster: Cluster, admin_kubeconfig: str, agent: str) -> None:
    with admin_rights(cluster, ADMIN_RULES):
        shown = run(cluster, "agents", "-A", "--kubeconfig", admin_kubeconfig)
        assert shown.returncode == 0, shown.stderr
        assert [cluster.namespace, agent] in [line.split()[:2] for line in shown.stdout.splitlines()]
        removed = run(cluster, "agents", "-A", "--remove", agent, "--kubeconfig", admin_kubeconfig)
    assert removed.stdout == f"{cluster.namespace}/{agent} is being removed\n", removed.stderr
    wait_until(lambda: agent not in cluster.jobs(), WITHIN_S, "the agent is left")


@pytest.mark.parametrize(
    ("verb", "options", "where"),
    [("list", (), "the whole cluster"), ("delete", ("--remove",), "namespace {namespace}")],
)
def test_an_administrators_missing_right_is_named(
    cluster: Cluster, admin_kubeconfig: str, agent: str, verb: str, options: tuple[str, ...], where: str
) -> None:
    names = [agent] if options else []
    with admin_rights(cluster, without("jobs", verb, given=ADMIN_RULES)):
        result = run(cluster, "agents", "-A", *options, *names, "--kubeconfig", admin_kubeconfig)
    assert result.returncode == EXIT_FAILED
    place = where.format(namespace=cluster.namespace)
    assert f"user {ADMIN} lacks the right to {verb} jobs.batch in {place}, which mirror needs to" in result.stderr
    assert result.stderr.count("\n") == 1
    assert agent in cluster.jobs()


def test_administrators_are_told_that_a_namespace_does_not_exist(cluster: Cluster, admin_kubeconfig: str) -> None:
    options = ("-n", "mirror-nowhere", "--kubeconfig", admin_kubeconfig)
    with admin_rights(cluster, ADMIN_RULES):
        assert "there is no namespace mirror-nowhere" in refusal(cluster, "deployment/web", *options)
    with admin_rights(cluster, without("namespaces", given=ADMIN_RULES)):
        sentence = refusal(cluster, "deployment/web", *options)
    assert f"user {ADMIN} lacks the right to get deployments.apps in namespace mirror-nowhere" in sentence
