"""Names of targets in a cluster: what a user writes, taken apart. Pure, and imported before anything slow is."""

from __future__ import annotations

import dataclasses
import re

from mirror.cli.errors import EXIT_USAGE, TargetError
from mirror.cli.settings import TARGETLESS


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of target.

    Attributes:
        name: As in a target.
        plural: As in paths of the API.
        paths: Where the API has them, the preferred first; empty for `label`.
        aliases: Other names, as kubectl knows them.
    """

    name: str
    plural: str
    paths: tuple[str, ...]
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, also with its group, as `kubectl get -o name` writes them."""
        names = (self.name, *self.aliases)
        groups = [path.split("/")[2] for path in self.paths[:1] if path.startswith("/apis/")]
        return (*names, *(f"{name}.{group}" for group in groups for name in names))


KINDS = (
    Kind("pod", "pods", ("/api/v1",), ("pods", "po")),
    Kind("deployment", "deployments", ("/apis/apps/v1",), ("deployments", "deploy")),
    Kind("statefulset", "statefulsets", ("/apis/apps/v1",), ("statefulsets", "sts")),
    Kind("daemonset", "daemonsets", ("/apis/apps/v1",), ("daemonsets", "ds")),
    Kind("replicaset", "replicasets", ("/apis/apps/v1",), ("replicasets", "rs")),
    Kind("job", "jobs", ("/apis/batch/v1",), ("jobs",)),
    # Before Kubernetes 1.21 they were v1beta1, which 1.25 no longer has.
    Kind("cronjob", "cronjobs", ("/apis/batch/v1", "/apis/batch/v1beta1"), ("cronjobs", "cj")),
    Kind("service", "services", ("/api/v1",), ("services", "svc")),
    Kind("rollout", "rollouts", ("/apis/argoproj.io/v1alpha1",), ("rollouts", "ro")),
    Kind("label", "pods", ()),
)
BY_NAME = {name: kind for kind in KINDS for name in kind.names}

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_CONTAINER = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@dataclasses.dataclass(frozen=True)
class Reference:
    """A target as the user named it.

    Attributes:
        kind: Of `KINDS`.
        name: Of the object; for `label` the selector, such as `app=web,tier!=cache`.
        container: Empty: none was named.
    """

    kind: Kind
    name: str
    container: str = ""

    def __str__(self) -> str:
        return f"{self.kind.name}/{self.name}"


def is_reference(target: str) -> bool:
    """Whether a target is one of a cluster, by the kind it begins with."""
    return target == TARGETLESS or target.partition("/")[0] in BY_NAME


def parse(target: str) -> Reference:
    """Reads a target of a cluster.

    Args:
        target: `KIND/NAME` or `KIND/NAME/container/NAME`, the kind one of `KINDS` or an alias.

    Raises:
        TargetError: It is none.
    """
    kind_name, _, rest = target.partition("/")
    kind = BY_NAME.get(kind_name)
    if kind is None:
        kinds = ", ".join(f"{each.name}/" for each in KINDS)
        raise TargetError(f"{target!r} is no target of a cluster: it must begin with one of {kinds}", EXIT_USAGE)
    # From the right: a label's key may hold a slash.
    name, marker, container = rest.rpartition("/container/")
    if not marker:
        name, container = rest, ""
    if marker and not _CONTAINER.fullmatch(container):
        raise TargetError(f"{target!r} is no target: after /container/ comes a container's name", EXIT_USAGE)
    if kind.name == "label":
        if not re.search(r"\w", name) or any(character in name for character in "\0\n"):
            raise TargetError(f"{target!r} is no target: after label/ comes KEY=VALUE[,KEY=VALUE...]", EXIT_USAGE)
    elif not _NAME.fullmatch(name):
        raise TargetError(
            f"{target!r} is no target: it must be {kind.name}/NAME or {kind.name}/NAME/container/NAME", EXIT_USAGE
        )
    return Reference(kind, name, container)
