"""What `mirror rbac` prints gives what is needed, and a right that is missing is named."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]

from mirror.cli.cluster.rights import role
from tests.e2e.cluster import Cluster
from tests.e2e.test_refusals import refusal

USER = "mirror-tester"
RULES: list[dict[str, Any]] = yaml.safe_load(role("user"))["rules"]


def without(resource: str, *verbs: str) -> list[dict[str, Any]]:
    """The rules but for a resource, or but for some verbs on it."""
    rules = copy.deepcopy(RULES)
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
    api = "rbac.authorization.k8s.io"
    common = {"apiVersion": f"{api}/v1", "metadata": {"name": "tester"}}
    reference = {"apiGroup": api, "kind": "Role", "name": "tester"}
    subject = {"apiGroup": api, "kind": "User", "name": USER}
    cluster.apply({**common, "kind": "Role", "rules": rules})
    cluster.apply({**common, "kind": "RoleBinding", "roleRef": reference, "subjects": [subject]})
    try:
        yield
    finally:
        for kind in ("rolebinding", "role"):
            cluster.remove(kind, "tester")


@pytest.fixture
def kubeconfig(cluster: Cluster, tmp_path: Path) -> str:
    """Of USER, who has no other rights."""
    return str(cluster.as_user(USER, tmp_path))


@pytest.mark.parametrize(
    "target", ["pod/db-0", "deployment/web", "service/web", "job/load", "cronjob/nightly", "label/app=web"]
)
def test_they_are_enough(cluster: Cluster, kubeconfig: str, target: str) -> None:
    with rights(cluster, RULES):
        result = cluster.run(target, "sh", "-c", "echo $COLOUR", options=["--kubeconfig", kubeconfig])
    assert result.stdout == "blue\n", result.stderr
    assert result.stderr == ""


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
