from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio

from mirror.cli.cluster import inventory
from mirror.cli.cluster.api import ApiError, Object
from mirror.cli.cluster.inventory import AgentRow, TargetRow
from mirror.cli.errors import MirrorError
from tests.cli.cluster.objects import StoredApi, pod, workload

AGENT = {"app.kubernetes.io/name": "mirror-agent", "app.kubernetes.io/managed-by": "mirror"}


def named(thing: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {**thing, "metadata": {**thing["metadata"], **metadata}}


THINGS: dict[str, list[dict[str, Any]]] = {
    "pod": [
        pod("web-2", labels={"app": "web"}, ready=False),
        pod("web-1", labels={"app": "web"}, containers={"app": {"running": {}}, "proxy": {"running": {}}}),
        pod("done", labels={"app": "web"}, status={"phase": "Succeeded"}),
        pod("night-1-x", labels={"job": "night-1"}),
        pod("agent", labels=AGENT),
    ],
    "deployment": [workload("web", {"app": "web"}), workload("idle", {"app": "idle"})],
    "replicaset": [named(workload("web-5", {"app": "web"}), ownerReferences=[{"uid": "uid-web"}])],
    "job": [
        named(workload("night-1", {"job": "night-1"}), ownerReferences=[{"uid": "uid-nightly"}]),
        named(workload("mirror-agent-1", {"job": "a"}), labels=AGENT),
    ],
    "cronjob": [{"metadata": {"name": "nightly", "uid": "uid-nightly"}, "spec": {}}],
    "service": [
        {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}}},
        {"metadata": {"name": "outside"}, "spec": {"externalName": "example.org"}},
    ],
    "rollout": [
        {"metadata": {"name": "borrows"}, "spec": {"workloadRef": {"kind": "Deployment", "name": "web"}}},
        {"metadata": {"name": "wrong"}, "spec": {"workloadRef": {"kind": "Deployment", "name": "nothing"}}},
        workload("own", {"job": "night-1"}),
    ],
}


def test_what_may_be_a_target() -> None:
    assert inventory.rows_of(THINGS) == [
        TargetRow("deployment/idle", 0, 0, ()),
        TargetRow("deployment/web", 1, 2, ("app", "proxy")),
        TargetRow("rollout/borrows", 1, 2, ("app", "proxy")),
        TargetRow("rollout/own", 1, 1, ("app",)),
        TargetRow("rollout/wrong", 0, 0, ()),
        TargetRow("cronjob/nightly", 1, 1, ("app",)),
        TargetRow("service/web", 1, 2, ("app", "proxy")),
        TargetRow("pod/night-1-x", 1, 1, ("app",)),
        TargetRow("pod/web-1", 1, 1, ("app", "proxy")),
        TargetRow("pod/web-2", 0, 1, ("app",)),
    ]


@pytest.mark.parametrize(
    ("selector", "takes"),
    [
        ({}, True),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "db"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["db", "web"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, True),
        ({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
    ],
)
def test_selectors(selector: dict[str, Any], takes: bool) -> None:
    assert inventory.selects(selector, pod(labels={"app": "web"})) is takes


class Forbidding(StoredApi):
    async def list(self, path: str, parameters: Mapping[str, str] | None = None) -> list[Object]:
        if path.endswith(("/services", "/jobs")):
            raise ApiError(403, "Forbidden", "no")
        return await super().list(path, parameters)


async def test_the_first_failure_is_the_last() -> None:
    """A program that hands out credentials would be run again for each kind."""

    class Failing(StoredApi):
        lists = 0

        async def list(self, path: str, parameters: Mapping[str, str] | None = None) -> list[Object]:
            self.lists += 1
            if self.lists > 1:
                await trio.sleep_forever()
            raise MirrorError("the login is over")

    with pytest.raises(MirrorError, match="the login is over"), trio.fail_after(60):
        await inventory.list_targets(Failing({}), "shop")


async def test_what_may_not_be_listed_is_named() -> None:
    api = Forbidding({"/api/v1/namespaces/shop/pods/web-1": pod()})
    assert await inventory.list_targets(api, "shop") == ([TargetRow("pod/web-1", 1, 1, ("app",))], ["jobs", "services"])


@pytest.mark.parametrize(
    ("status", "metadata", "state"),
    [
        ({}, {}, "starting"),
        ({"active": 1}, {}, "running"),
        ({"succeeded": 1}, {}, "ended"),
        ({"failed": 1}, {}, "ended"),
        ({"active": 1}, {"deletionTimestamp": "x"}, "going"),
    ],
)
def test_agents(status: dict[str, Any], metadata: dict[str, Any], state: str) -> None:
    about = {
        "mirror-agent/target-namespace": "shop",
        "mirror-agent/target-pod": "web-1",
        "mirror-agent/target-container": "app",
        "mirror-agent/features": "environment,files",
    }
    job = {
        "metadata": {
            "name": "a",
            "namespace": "b",
            "uid": "c",
            "creationTimestamp": "d",
            "annotations": about,
            **metadata,
        },
        "status": status,
    }
    row = inventory.row_of_agent(job)
    assert row == AgentRow("b", "a", "c", "shop/web-1/app", ("environment", "files"), state, "d")


def test_agents_that_are_ephemeral_containers() -> None:
    there = pod()
    base = "mirror-agent-0123456789abcdef"
    names = [f"{base}-1", f"{base}-2", f"{base}-3", "debugger", "mirror-agent-mine"]
    arguments = ["--listen", "0", "--features", "environment,files"]
    there["spec"]["ephemeralContainers"] = [
        {"name": name, "image": "mirror-agent:1", "args": arguments, "targetContainerName": "app"} for name in names
    ]
    states = [{"terminated": {"exitCode": 0}}, {"running": {"startedAt": "2026-01-01T00:00:00Z"}}]
    there["status"]["ephemeralContainerStatuses"] = [
        {"name": name, "state": state} for name, state in zip(names, states, strict=False)
    ]
    running, starting = inventory.rows_of_ephemeral(there)
    assert (running.job, running.state, running.began) == (f"{base}-2", "running", "2026-01-01T00:00:00Z")
    assert (running.target, running.features) == ("shop/web-1/app", ("environment", "files"))
    assert (starting.job, starting.state) == (f"{base}-3", "starting")


async def test_an_ephemeral_container_cannot_be_removed() -> None:
    row = inventory.AgentRow("shop", "mirror-agent-0123456789abcdef-1", "", "shop/web-1/app", (), "running", "")
    with pytest.raises(MirrorError, match="is an ephemeral container of pod web-1, which cannot be removed"):
        await inventory.remove_agent(StoredApi({}), row)
