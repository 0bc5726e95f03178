"""What a user must be allowed in a namespace, and whether they are: the same as in `rbac/`."""

from __future__ import annotations

import dataclasses
from importlib import resources

from mirror.cli.cluster.api import Api

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@dataclasses.dataclass(frozen=True)
class Right:
    """Verbs on a resource.

    Attributes:
        group: Of the API; empty: the core's.
        resource: With a subresource after a slash.
        verbs: All of them.
        lacking: What does not work without.
        is_needed: Whether nothing works without; else only what `lacking` says.
        lacking_some: The same as `lacking` where one of the verbs is there, and enough; empty: all are needed.
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    lacking: str
    is_needed: bool = False
    lacking_some: str = ""

    def __str__(self) -> str:
        return f"{self.resource}.{self.group}" if self.group else self.resource


def _kind_of_target(group: str, resource: str, kind: str) -> tuple[Right, Right]:
    """What one more kind of target takes."""
    get = Right(group, resource, ("get",), f"{kind}/ is no target")
    return get, Right(group, resource, ("list",), f"`mirror ls` does not show {resource}")


RIGHTS = (
    Right("", "pods", ("get", "list", "watch"), "no target can be found", is_needed=True),
    Right(
        "",
        "pods/portforward",
        ("create", "get"),
        "agents cannot be reached",
        is_needed=True,
        lacking_some="agents can be reached in one way of two, which not every cluster and proxy lets through",
    ),
    Right("batch", "jobs", ("create", "patch"), "no agent can be started", is_needed=True),
    Right("batch", "jobs", ("get",), "an agent that somebody else begins cannot be joined, and job/ is no target"),
    Right("batch", "jobs", ("list",), "agents are not shown, and cronjob/ is no target"),
    Right("batch", "jobs", ("delete",), "agents that have failed or ended may be in the way for some time"),
    Right("", "events", ("watch",), "why an agent's pod was refused cannot be said"),
    *_kind_of_target("", "services", "service"),
    *_kind_of_target("apps", "deployments", "deployment"),
    *_kind_of_target("apps", "statefulsets", "statefulset"),
    *_kind_of_target("apps", "daemonsets", "daemonset"),
    *_kind_of_target("apps", "replicasets", "replicaset"),
    *_kind_of_target("batch", "cronjobs", "cronjob"),
    *_kind_of_target("argoproj.io", "rollouts", "rollout"),
)
"""As in `user.yaml`."""
RIGHTS_EPHEMERAL = (
    Right("", "pods/ephemeralcontainers", ("patch",), "--ephemeral does not work"),
    Right("", "pods/exec", ("get", "create"), "neither --ephemeral nor --agent-transport direct works"),
)
"""As in `ephemeral.yaml`."""


def role(name: str) -> str:
    """The file `rbac/NAME.yaml`, for `kubectl apply`."""
    return resources.files("mirror.cli.cluster").joinpath(f"rbac/{name}.yaml").read_text()


async def missing_verbs(api: Api, right: Right, namespace: str) -> list[str]:
    """Which of a right's verbs the user lacks in a namespace.

    Raises:
        ApiError: The API server does not tell.
        MirrorError: It does not answer.
    """
    resource, _, subresource = right.resource.partition("/")
    missing = []
    for verb in right.verbs:
        asked = {
            "namespace": namespace,
            "verb": verb,
            "group": right.group,
            "resource": resource,
            "subresource": subresource,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        answer = await api.create(_REVIEWS, review)
        if not (answer.get("status") or {}).get("allowed"):
            missing.append(verb)
    return missing
