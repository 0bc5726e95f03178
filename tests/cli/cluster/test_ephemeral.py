"""Agents as ephemeral containers, in both shapes that the API has had."""

from __future__ import annotations

import copy
import dataclasses
import datetime
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from mirror.agent import options
from mirror.cli.cluster import agents, ephemeral
from mirror.cli.cluster.agents import Agent, Wish
from mirror.cli.cluster.api import Api, ApiError, Object
from mirror.cli.cluster.targets import Place
from mirror.cli.errors import TargetError
from mirror.cli.settings import AgentSettings
from mirror.protocol.features import FEATURES
from tests.cli.cluster.objects import pod

PLACE = Place("shop", "web-1", "uid-web-1", "node-1", "app", "0123abc")
SETTINGS = AgentSettings(is_ephemeral=True, startup_timeout_s=20)
WISH = Wish(PLACE, "shop", FEATURES, SETTINGS, "mirror-agent:1")
BASE = agents.name_of(WISH)
PODS = "/api/v1/namespaces/shop/pods"
POD = f"{PODS}/web-1"
RUNNING: dict[str, Any] = {"running": {}}
ENDED: dict[str, Any] = {"terminated": {"exitCode": 0}}


class OnePod(Api):
    """A cluster with one pod, in which a test plays the kubelet's part.

    Attributes:
        patches: What came for the pod's ephemeral containers.
        becomes: What becomes of a container that is asked for.
    """

    def __init__(self, *, has_old_shape: bool = False) -> None:
        self.pod = pod()
        self.patches: list[Any] = []
        self.becomes: Mapping[str, Any] | None = RUNNING
        self.refusal: ApiError | None = None
        self._has_old_shape = has_old_shape
        self._watchers: list[trio.MemorySendChannel[tuple[str, Object]]] = []

    def put(self, name: str, state: Mapping[str, Any] | None = None) -> None:
        """A container that is there, or has another state."""
        containers = self.pod["spec"].setdefault("ephemeralContainers", [])
        if name not in [container["name"] for container in containers]:
            containers.append({"name": name, "image": "mirror-agent:1", "securityContext": {"runAsUser": 0}})
        self.say(name, state)

    def say(self, name: str, state: Mapping[str, Any] | None) -> None:
        statuses = self.pod["status"].setdefault("ephemeralContainerStatuses", [])
        statuses[:] = [status for status in statuses if status["name"] != name]
        if state is not None:
            statuses.append({"name": name, "state": dict(state)})
        self.change()

    def change(self, kind: str = "MODIFIED") -> None:
        for watcher in self._watchers:
            watcher.send_nowait((kind, copy.deepcopy(self.pod)))

    async def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Object:
        await trio.lowlevel.checkpoint()
        if path == "/version":
            return {"gitVersion": "v1.20.2"}
        assert path == POD
        return copy.deepcopy(self.pod)

    async def patch(
        self,
        path: str,
        body: Object | Sequence[Object],
        *,
        kind: str = "merge",
        parameters: Mapping[str, str] | None = None,
    ) -> Object:
        await trio.lowlevel.checkpoint()
        assert path == f"{POD}/ephemeralcontainers"
        assert kind == "strategic-merge"
        assert isinstance(body, dict)
        self.patches.append(body)
        if self.refusal is not None:
            raise self.refusal
        containers = self.pod["spec"].setdefault("ephemeralContainers", [])
        # What is not known in an object is dropped without a word.
        wanted = (body if self._has_old_shape else body.get("spec", {})).get("ephemeralContainers", [])
        for container in wanted:
            if self._has_old_shape and "securityContext" in container:
                raise ApiError(422, "Invalid", "spec.ephemeralContainers[0].securityContext: Forbidden")
            if container["name"] not in [each["name"] for each in containers]:
                containers.append(container)
                self.say(container["name"], self.becomes)
        if self._has_old_shape:
            return {"kind": "EphemeralContainers", "ephemeralContainers": copy.deepcopy(containers)}
        return {"kind": "Pod", **copy.deepcopy(self.pod)}

    @asynccontextmanager
    async def watch(
        self, path: str, parameters: Mapping[str, str] | None = None, *, version: str | None = None
    ) -> AsyncIterator[AsyncIterator[tuple[str, Object]]]:
        assert path == PODS
        assert parameters == {"fieldSelector": "metadata.name=web-1"}
        sender, receiver = trio.open_memory_channel[tuple[str, Object]](100)
        sender.send_nowait(("ADDED", copy.deepcopy(self.pod)))
        self._watchers.append(sender)
        try:
            yield receiver
        finally:
            self._watchers.remove(sender)


async def start(api: OnePod, wish: Wish = WISH, said: list[str] | None = None) -> Agent:
    async def tell(text: str) -> None:
        if said is not None:
            said.append(text)

    return await ephemeral.start(api, wish, tell)


async def fails_with(api: OnePod, wish: Wish = WISH) -> str:
    with pytest.raises(TargetError) as caught:
        await start(api, wish)
    return caught.value.sentence


def begun(name: str, **more: Any) -> Agent:
    return Agent("shop", "", "", "web-1", **{"is_begun": True, "container": name, "is_guarded": True, **more})


# --- the container ----------------------------------------------------------------------------------------


def test_the_container_has_what_the_api_lets_it_have() -> None:
    container = ephemeral.manifest(WISH, f"{BASE}-1")
    assert container["targetContainerName"] == "app"
    assert not container.keys() & {"ports", "resources", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"}
    added = container["securityContext"]["capabilities"]["add"]
    assert {"NET_ADMIN", "SYS_PTRACE"} <= {*added}
    assert "SYS_ADMIN" not in added, "the pod's namespaces are its own"
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert "securityContext" not in ephemeral.manifest(WISH, f"{BASE}-1", is_privileged=False)


def test_the_agent_understands_its_arguments() -> None:
    understood = options.parse(ephemeral.manifest(WISH, f"{BASE}-1")["args"])
    assert understood.container == "0123abc"
    assert understood.port == 0, "no port of the target's pod is ours"
    assert understood.identity
    assert not understood.is_direct
    settings = dataclasses.replace(SETTINGS, transport="direct")
    direct = dataclasses.replace(WISH, settings=settings)
    assert options.parse(ephemeral.manifest(direct, "x")["args"]).is_direct


def test_other_ways_have_other_names() -> None:
    names = {
        agents.name_of(
            dataclasses.replace(WISH, settings=AgentSettings(is_ephemeral=is_ephemeral, transport=transport))
        )
        for is_ephemeral in (True, False)
        for transport in ("forward", "direct")
    }
    assert len(names) == 4
    assert agents.name_of(dataclasses.replace(WISH, needs_incoming=True)) == BASE


def test_they_are_counted() -> None:
    there = pod()
    assert ephemeral.names_in(there, WISH) == []
    names = ["debugger-1", f"{BASE}-10", f"{BASE}-9", "mirror-agent-0123-1"]
    there["spec"]["ephemeralContainers"] = [{"name": name} for name in names]
    assert ephemeral.names_in(there, WISH) == [f"{BASE}-9", f"{BASE}-10"]


# --- start or join ----------------------------------------------------------------------------------------


async def test_a_new_one() -> None:
    api, said = OnePod(), list[str]()
    assert await start(api, said=said) == begun(f"{BASE}-1")
    assert api.patches == [{"spec": {"ephemeralContainers": [ephemeral.manifest(WISH, f"{BASE}-1")]}}]
    assert said == [f"ephemeral container {BASE}-1 is asked for"]


async def test_one_that_runs_is_joined() -> None:
    api = OnePod()
    api.put(f"{BASE}-1", ENDED)
    api.put(f"{BASE}-2", RUNNING)
    assert await start(api) == begun(f"{BASE}-2", is_begun=False)
    assert api.patches == []


@pytest.mark.parametrize("state", [ENDED, {"terminated": {"exitCode": 1}}])
async def test_one_that_has_ended_is_followed_by_another(state: dict[str, Any]) -> None:
    api = OnePod()
    api.put(f"{BASE}-1", state)
    assert (await start(api)).container == f"{BASE}-2"


def crashed(exit_code: int = 1, *, ago_s: float = 5) -> dict[str, Any]:
    ended_at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=ago_s)
    return {"terminated": {"exitCode": exit_code, "message": "no more", "finishedAt": f"{ended_at:%Y-%m-%dT%H:%M:%SZ}"}}


async def test_one_that_has_just_failed_is_followed_by_none() -> None:
    api = OnePod()
    api.put(f"{BASE}-1", crashed())
    assert (await fails_with(api)).startswith("no more (there is no other agent within 60 s of that)")
    assert api.patches == []
    api.put(f"{BASE}-1", crashed(ago_s=90))
    assert (await start(api)).container == f"{BASE}-2"


async def test_one_that_was_killed_is_followed_at_once() -> None:
    """As by the restart of a target whose processes it is among."""
    api = OnePod()
    api.put(f"{BASE}-1", crashed(137))
    assert (await start(api)).container == f"{BASE}-2"


async def test_a_session_that_asks_again_and_again_adds_one() -> None:
    api = OnePod()
    api.becomes = crashed()
    for _ in range(20):
        await fails_with(api)
    assert len(api.patches) == 1


async def test_one_that_cannot_start_is_left_to_the_node() -> None:
    api = OnePod()
    api.becomes = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    for _ in range(20):
        assert "mirror-agent:1 cannot be pulled" in await fails_with(api)
    assert len(api.patches) == 1
    api.say(f"{BASE}-1", RUNNING)
    assert await start(api) == begun(f"{BASE}-1", is_begun=False)


async def test_one_that_cannot_start_as_it_was_asked_for() -> None:
    api = OnePod()
    api.becomes = {"waiting": {"reason": "ErrImageNeverPull"}}
    never = dataclasses.replace(WISH, settings=dataclasses.replace(SETTINGS, image_pull_policy="Never"))
    assert "image_pull_policy to IfNotPresent" in await fails_with(api, never)
    api.becomes = RUNNING
    assert (await start(api)).container == f"{BASE}-1"


async def test_a_pod_that_is_about_to_go_gets_none() -> None:
    api = OnePod()
    api.pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert await fails_with(api) == "pod web-1 is being removed; try again"
    assert api.patches == []


async def test_one_that_is_starting_is_waited_for(nursery: trio.Nursery) -> None:
    api, said = OnePod(), list[str]()
    api.put(f"{BASE}-1")

    async def kubelet() -> None:
        await trio.testing.wait_all_tasks_blocked()
        api.say(f"{BASE}-1", {"waiting": {"reason": "ContainerCreating"}})
        await trio.testing.wait_all_tasks_blocked()
        api.say(f"{BASE}-1", RUNNING)

    nursery.start_soon(kubelet)
    assert not (await start(api, said=said)).is_begun
    assert said[1:] == ["waiting for node node-1 to start the agent's container"]


async def test_one_that_ends_when_it_is_joined(nursery: trio.Nursery) -> None:
    api = OnePod()
    api.put(f"{BASE}-1")

    async def kubelet() -> None:
        await trio.testing.wait_all_tasks_blocked()
        api.say(f"{BASE}-1", ENDED)

    nursery.start_soon(kubelet)
    assert (await start(api)).container == f"{BASE}-2"


# --- the old shape ----------------------------------------------------------------------------------------


async def test_the_old_shape_has_no_privileges() -> None:
    api = OnePod(has_old_shape=True)
    agent = await start(api)
    assert agent.container == f"{BASE}-1"
    assert api.patches[1:] == [
        {"ephemeralContainers": [ephemeral.manifest(WISH, f"{BASE}-1", is_privileged=False)]},
    ]
    assert agent.reasons.keys() == {"incoming"}
    assert agent.reasons["incoming"].startswith("Kubernetes v1.20.2 gives ephemeral containers no privileges")
    joined = await start(api)
    assert (joined.is_begun, joined.reasons) == (False, agent.reasons)


async def test_without_incoming_nothing_is_lacking() -> None:
    agent = await start(OnePod(has_old_shape=True), dataclasses.replace(WISH, features=FEATURES[:-1]))
    assert agent.reasons == {}


async def test_the_old_shape_gets_no_agent_of_no_use() -> None:
    api = OnePod(has_old_shape=True)
    sentence = await fails_with(api, dataclasses.replace(WISH, needs_incoming=True))
    assert "Kubernetes v1.20.2" in sentence
    assert "leave out --ephemeral" in sentence
    assert api.pod["spec"]["ephemeralContainers"] == []


# --- failures ---------------------------------------------------------------------------------------------


async def test_no_ephemeral_containers() -> None:
    api = OnePod()
    api.refusal = ApiError(404, "NotFound", "the server could not find the requested resource")
    assert "this cluster has no ephemeral containers" in await fails_with(api)


async def test_a_missing_right() -> None:
    api = OnePod()
    message = 'User "dev" cannot patch resource "pods/ephemeralcontainers" in API group "" in the namespace "shop"'
    api.refusal = ApiError(403, "Forbidden", f'pods "web-1" is forbidden: {message}')
    sentence = await fails_with(api)
    assert sentence.startswith("user dev lacks the right to patch pods/ephemeralcontainers in namespace shop")


@pytest.mark.parametrize(
    "rule",
    [
        'violates PodSecurity "baseline:latest": non-default capabilities (container "x" must not have "SYS_PTRACE")',
        'admission webhook "policy.example" denied the request: no debuggers',
        "somebody says no",
    ],
)
async def test_a_rule_that_refuses_it(rule: str) -> None:
    api = OnePod()
    api.refusal = ApiError(403, "Forbidden", f'pods "web-1" is forbidden: {rule}')
    sentence = await fails_with(api)
    assert rule in sentence
    assert "leave out --ephemeral and put the agent into another namespace" in sentence


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_webhook_that_refuses_it_by_another_status(status: int) -> None:
    api = OnePod()
    api.refusal = ApiError(status, "", 'admission webhook "policy.example" denied the request: no debuggers')
    sentence = await fails_with(api)
    assert 'admission webhook "policy.example" denied the request: no debuggers' in sentence
    assert "leave out --ephemeral and put the agent into another namespace" in sentence


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"waiting": {"reason": "ErrImagePull", "message": "not found"}}, "mirror-agent:1 cannot be pulled"),
        ({"waiting": {"reason": "ErrImagePull"}}, "leave out --ephemeral and set agent.image_pull_secrets"),
        ({"waiting": {"reason": "CreateContainerError"}}, "leave out --ephemeral, so that the agent has a pod"),
        ({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, "leave out --ephemeral, so that it has a pod"),
        ({"terminated": {"exitCode": 1, "message": "no process of container 0123abc"}}, "no process of container"),
    ],
)
async def test_one_that_does_not_run(state: dict[str, Any], said: str) -> None:
    api = OnePod()
    api.becomes = state
    assert said in await fails_with(api)


async def test_a_pod_that_goes(nursery: trio.Nursery) -> None:
    api = OnePod()
    api.becomes = None

    async def controller() -> None:
        await trio.testing.wait_all_tasks_blocked()
        api.change("DELETED")

    nursery.start_soon(controller)
    assert "pod web-1 has been removed" in await fails_with(api)


async def test_a_pod_that_has_been_replaced() -> None:
    api = OnePod()
    api.pod["metadata"]["uid"] = "uid-of-another"
    assert "has been replaced" in await fails_with(api)
    assert api.patches == []


async def test_patience_ends(autojump_clock: trio.testing.MockClock) -> None:
    api = OnePod()
    api.becomes = None
    assert "did not start within 20 s (waited for node node-1 to start" in await fails_with(api)
