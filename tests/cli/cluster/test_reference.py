from __future__ import annotations

import pytest

from mirror.cli.cluster import reference
from mirror.cli.errors import EXIT_USAGE, TargetError


@pytest.mark.parametrize(
    ("target", "kind", "name", "container"),
    [
        ("pod/web-1", "pod", "web-1", ""),
        ("po/web-1", "pod", "web-1", ""),
        ("deployment/web", "deployment", "web", ""),
        ("deploy/web/container/app", "deployment", "web", "app"),
        ("sts/db", "statefulset", "db", ""),
        ("ds/logs", "daemonset", "logs", ""),
        ("rs/web-5", "replicaset", "web-5", ""),
        ("job/load", "job", "load", ""),
        ("cj/nightly", "cronjob", "nightly", ""),
        ("svc/web", "service", "web", ""),
        ("rollout/web", "rollout", "web", ""),
        ("deployment.apps/web/container/app", "deployment", "web", "app"),
        ("job.batch/load", "job", "load", ""),
        ("rollout.argoproj.io/web", "rollout", "web", ""),
        ("pod/web.example", "pod", "web.example", ""),
        ("pod/container/container/container", "pod", "container", "container"),
        ("label/app=web", "label", "app=web", ""),
        ("label/app=web,tier!=cache/container/app", "label", "app=web,tier!=cache", "app"),
        ("label/app.kubernetes.io/name=web", "label", "app.kubernetes.io/name=web", ""),
        ("label/app.kubernetes.io/name=web/container/app", "label", "app.kubernetes.io/name=web", "app"),
    ],
)
def test_what_is_a_target(target: str, kind: str, name: str, container: str) -> None:
    found = reference.parse(target)
    assert (found.kind.name, found.name, found.container) == (kind, name, container)
    assert reference.is_reference(target)
    assert str(found) == f"{kind}/{name}"


@pytest.mark.parametrize(
    "target",
    [
        "pod", "pod/", "pod/a/b", "pod/Web", "pod/../secrets", "pod/a?watch=1", "deployment/web/container/",
        "deployment/web/containers/app", "deployment/web/container/a/b", "label/", "label//container/app", "node/a",
        "web", "deployment.batch/web", "pod.v1/web",
    ],
)  # fmt: skip
def test_what_is_none(target: str) -> None:
    with pytest.raises(TargetError) as caught:
        reference.parse(target)
    assert caught.value.exit_status == EXIT_USAGE
    assert "\n" not in caught.value.sentence


@pytest.mark.parametrize("target", ["demo", "pid/1", "container/web", "", "pods-of-mine/x", "pod.apps/x"])
def test_other_targets_are_not_of_a_cluster(target: str) -> None:
    assert not reference.is_reference(target)


def test_every_name_means_one_kind() -> None:
    names = [name for kind in reference.KINDS for name in kind.names]
    assert len(names) == len(set(names)) == len(reference.BY_NAME)
