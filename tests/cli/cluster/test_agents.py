from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from mirror.agent import options
from mirror.cli.cluster import agents, failures
from mirror.cli.cluster.access import AccessError
from mirror.cli.cluster.agents import Agent, Wish
from mirror.cli.cluster.api import Api, ApiError, Object, Unreachable
from mirror.cli.cluster.targets import Place
from mirror.cli.errors import MirrorError, TargetError
from mirror.cli.settings import AgentSettings
from mirror.protocol.features import FEATURES

PLACE = Place("shop", "web-1", "uid-web-1", "node-1", "app", "0123abc")
WISH = Wish(PLACE, "shop", FEATURES, AgentSettings(), "mirror-agent:1")
NAME = agents.name_of(WISH)

# --- the name ---------------------------------------------------------------------------------------------


def test_the_same_needs_share_a_name() -> None:
    other = dataclasses.replace(WISH, settings=AgentSettings(labels={"a": "b"}, startup_timeout_s=1))
    assert agents.name_of(other) == NAME
    assert len(NAME) <= 63 - len("-xxxxx")


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(WISH, place=dataclasses.replace(PLACE, pod_uid="uid-web-2")),
        dataclasses.replace(WISH, place=dataclasses.replace(PLACE, container_id="0123abd")),
        dataclasses.replace(WISH, features=FEATURES[:2]),
        dataclasses.replace(WISH, image="mirror-agent:2"),
        dataclasses.replace(WISH, settings=AgentSettings(is_privileged=True)),
        dataclasses.replace(WISH, settings=AgentSettings(dropped_capabilities=("NET_ADMIN",))),
    ],
)
def test_other_needs_have_another_name(other: Wish) -> None:
    assert agents.name_of(other) != NAME


# --- the manifest -----------------------------------------------------------------------------------------


def pod_spec(wish: Wish = WISH) -> dict[str, Any]:
    return agents.manifest(wish)["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def container(wish: Wish = WISH) -> dict[str, Any]:
    return pod_spec(wish)["containers"][0]  # type: ignore[no-any-return]


def test_it_runs_once_beside_the_target_and_vanishes() -> None:
    job = agents.manifest(WISH)
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["ttlSecondsAfterFinished"] == 1
    selected = {key: value for key, _, value in (term.partition("=") for term in agents.SELECTOR.split(","))}
    assert job["metadata"]["labels"].items() >= selected.items()
    assert job["metadata"]["annotations"]["mirror-agent/target-pod"] == "web-1"
    spec = pod_spec()
    assert spec["restartPolicy"] == "Never"
    assert spec["hostPID"] is True
    assert spec["automountServiceAccountToken"] is False
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}]
    assert "nodeName" not in spec


def test_the_agent_understands_its_arguments() -> None:
    understood = options.parse(container()["args"])
    assert understood.container == "0123abc"
    assert understood.port == agents.PORT
    assert (understood.grace_s, understood.first_client_within_s) == (5.0, 30.0)
    assert understood.features == frozenset(FEATURES)


def test_no_capability_that_the_features_do_not_need() -> None:
    def added(*features: str, **settings: Any) -> list[str]:
        context = container(dataclasses.replace(WISH, features=features, settings=AgentSettings(**settings)))
        assert context["securityContext"]["capabilities"]["drop"] == ["ALL"]
        return list(context["securityContext"]["capabilities"]["add"])

    assert "SYS_ADMIN" not in added("environment", "files")
    assert "NET_ADMIN" not in added("environment", "files", "names", "outgoing")
    assert {"NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"} <= {*added(*FEATURES)}
    assert "NET_ADMIN" not in added(*FEATURES, dropped_capabilities=("NET_ADMIN",))


def test_privileges_are_not_gained_where_the_api_lets_one_say_so() -> None:
    few = container(dataclasses.replace(WISH, features=("environment",)))["securityContext"]
    assert few["allowPrivilegeEscalation"] is False
    assert few["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "privileged" not in few
    assert "allowPrivilegeEscalation" not in container()["securityContext"]
    privileged = container(dataclasses.replace(WISH, settings=AgentSettings(is_privileged=True)))["securityContext"]
    assert privileged["privileged"] is True
    assert "allowPrivilegeEscalation" not in privileged


def test_settings() -> None:
    settings = AgentSettings(
        image_pull_policy="Always",
        image_pull_secrets=("login",),
        service_account="mirror",
        priority_class="high",
        tolerations=({"key": "a", "operator": "Exists"},),
        resources={"limits": {"cpu": "2"}},
        labels={"team": "a", "app.kubernetes.io/name": "mine"},
        annotations={"note": "b"},
        seccomp_profile={"type": "Unconfined"},
        app_armor_profile={"type": "Localhost", "localhostProfile": "agent"},
        se_linux_options={"type": "spc_t"},
        ttl_s=30,
    )
    wish = dataclasses.replace(WISH, settings=settings)
    job, spec, inner = agents.manifest(wish), pod_spec(wish), container(wish)
    assert (inner["imagePullPolicy"], spec["imagePullSecrets"]) == ("Always", [{"name": "login"}])
    assert (spec["serviceAccountName"], spec["priorityClassName"]) == ("mirror", "high")
    assert spec["tolerations"] == [{"key": "a", "operator": "Exists"}]
    assert inner["resources"] == {"limits": {"cpu": "2"}}
    assert inner["securityContext"]["seccompProfile"] == {"type": "Unconfined"}
    assert inner["securityContext"]["appArmorProfile"] == {"type": "Localhost", "localhostProfile": "agent"}
    assert inner["securityContext"]["seLinuxOptions"] == {"type": "spc_t"}
    assert job["spec"]["ttlSecondsAfterFinished"] == 30
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        assert metadata["labels"]["team"] == "a"
        assert metadata["labels"]["app.kubernetes.io/name"] == "mirror-agent"
        assert metadata["annotations"]["note"] == "b"
        profile = metadata["annotations"]["container.apparmor.security.beta.kubernetes.io/agent"]
        assert profile == "localhost/agent"


def test_without_a_target_nothing_is_asked_for() -> None:
    """As PodSecurity's level `restricted` demands."""
    settings = AgentSettings(node_selector={"disk": "fast"})
    wish = dataclasses.replace(WISH, place=None, features=("files", "names", "outgoing"), settings=settings)
    spec, inner = pod_spec(wish), container(wish)
    assert not spec.keys() & {"hostPID", "affinity"}
    assert spec["nodeSelector"] == {"disk": "fast"}
    context = inner["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": []}
    assert context["runAsNonRoot"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert options.parse(inner["args"]).is_targetless
    assert agents.name_of(wish) not in (NAME, agents.name_of(dataclasses.replace(wish, image="mirror-agent:2")))


def test_meshes() -> None:
    assert agents.manifest(WISH)["spec"]["template"]["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    wanted = dataclasses.replace(WISH, settings=AgentSettings(is_kept_out_of_meshes=False))
    assert "sidecar.istio.io/inject" not in agents.manifest(wanted)["spec"]["template"]["metadata"]["labels"]


def test_default_image_is_of_this_release() -> None:
    assert agents.default_image().startswith("mirror-agent:")


# --- start or join ----------------------------------------------------------------------------------------

JOBS = "/apis/batch/v1/namespaces/shop/jobs"
PODS = "/api/v1/namespaces/shop/pods"
EVENTS = "/api/v1/namespaces/shop/events"


class Stage(Api):
    """A namespace with jobs, pods and events, in which a test plays the part of the controllers."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Object]] = {JOBS: {}, PODS: {}, EVENTS: {}}
        self.forbidden: set[str] = set()
        self.is_kept = False
        """Whether Jobs may not be removed."""
        self.broken: dict[str, Exception] = {}
        """For paths why nothing more is heard of them."""
        self.node: Object = {"metadata": {"name": "node-1"}, "status": {}}
        self.lifted: list[str] = []
        """Uids of Jobs whose deadline was lifted."""
        self.conflict = ApiError(409, "Conflict", "the UID in the precondition is another")
        self.made = 0
        self.removed: list[str] = []
        self.dropped = 0
        self._watchers: list[tuple[str, str, trio.MemorySendChannel[tuple[str, Object]]]] = []

    def put(self, path: str, thing: Object) -> None:
        name = thing["metadata"]["name"]
        kind = "MODIFIED" if name in self.objects[path] else "ADDED"
        self.objects[path][name] = thing
        self._say(path, kind, thing)

    def _say(self, path: str, kind: str, thing: Object) -> None:
        for watched, fields, channel in self._watchers:
            if watched == path and _matches(thing, fields):
                channel.send_nowait((kind, thing))

    def put_pod(self, uid: str, state: Mapping[str, Any] | None = None, **status: Any) -> None:
        """The state of the pod that the controller made for the Job with this uid."""
        self.put(
            PODS,
            {
                "metadata": {"name": f"pod-of-{uid}", "uid": f"pod-{uid}", "ownerReferences": [{"uid": uid}]},
                "spec": {"nodeName": "node-1", "containers": [{"name": "agent", "image": "mirror-agent:1"}]},
                "status": {"containerStatuses": [{"name": "agent", "state": state or {}}], **status},
            },
        )

    def put_event(self, about: Mapping[str, str], reason: str, message: str = "") -> None:
        name = f"event-{len(self.objects[EVENTS])}"
        self.put(EVENTS, {"metadata": {"name": name}, "involvedObject": about, "reason": reason, "message": message})

    async def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Object:
        await trio.lowlevel.checkpoint()
        if path in self.broken:
            raise self.broken[path]
        if path == "/api/v1/nodes/node-1":
            if not self.node:
                raise ApiError(403, "Forbidden", _forbid("get", "nodes", "", " at the cluster scope"))
            return self.node
        folder, _, name = path.rpartition("/")
        if name not in self.objects[folder]:
            raise ApiError(404, "NotFound", f'"{name}" not found')
        return self.objects[folder][name]

    async def list(self, path: str, parameters: Mapping[str, str] | None = None) -> list[Object]:
        await trio.lowlevel.checkpoint()
        return list(self.objects[path].values())

    async def create(self, path: str, body: Object, parameters: Mapping[str, str] | None = None) -> Object:
        await trio.lowlevel.checkpoint()
        name = body["metadata"]["name"]
        if name in self.objects[path]:
            raise ApiError(409, "AlreadyExists", f'"{name}" already exists')
        self.made += 1
        job = {**body, "metadata": {**body["metadata"], "uid": f"job-{self.made}"}}
        self.put(path, job)
        return job

    async def patch(
        self,
        path: str,
        body: Object | Sequence[Object],
        *,
        kind: str = "merge",
        parameters: Mapping[str, str] | None = None,
    ) -> Object:
        await trio.lowlevel.checkpoint()
        if path in self.forbidden:
            raise ApiError(403, "Forbidden", 'User "dev" cannot patch resource "jobs" in API group "batch"')
        folder, _, name = path.rpartition("/")
        assert isinstance(body, dict)
        assert body["spec"] == {"activeDeadlineSeconds": None}
        job = self.objects[folder].get(name, body)  # tests that put a pod only mean that its Job is there
        if job["metadata"]["uid"] != body["metadata"]["uid"]:
            raise self.conflict
        self.lifted.append(body["metadata"]["uid"])
        return job

    async def drop_idle(self) -> None:
        self.dropped += 1

    async def delete(self, path: str, *, propagation: str = "Background", uid: str | None = None) -> Object:
        await trio.lowlevel.checkpoint()
        if self.is_kept:
            raise ApiError(403, "Forbidden", _forbid("delete", "jobs", "batch", ' in the namespace "shop"'))
        folder, _, name = path.rpartition("/")
        thing = self.objects[folder][name]
        if uid != thing["metadata"]["uid"]:
            raise self.conflict
        self.removed.append(uid or "")
        for pod in [*self.objects[PODS].values()]:
            if pod["metadata"]["ownerReferences"][0]["uid"] == uid:
                del self.objects[PODS][pod["metadata"]["name"]]
                self._say(PODS, "DELETED", pod)
        self._say(folder, "DELETED", self.objects[folder].pop(name))
        return thing

    @asynccontextmanager
    async def watch(
        self, path: str, parameters: Mapping[str, str] | None = None, *, version: str | None = None
    ) -> AsyncIterator[AsyncIterator[tuple[str, Object]]]:
        if path in self.broken:
            raise self.broken[path]
        if path in self.forbidden:
            raise ApiError(403, "Forbidden", 'User "dev" cannot watch resource "events" in API group ""')
        fields = (parameters or {}).get("fieldSelector", "")
        sender, receiver = trio.open_memory_channel[tuple[str, Object]](100)
        for thing in self.objects[path].values():
            if _matches(thing, fields):
                sender.send_nowait(("ADDED", thing))
        self._watchers.append((path, fields, sender))
        try:
            yield receiver
        finally:
            self._watchers.remove((path, fields, sender))


def _forbid(verb: str, resource: str, group: str, where: str) -> str:
    return f'User "dev" cannot {verb} resource "{resource}" in API group "{group}"{where}'


def _matches(thing: Object, fields: str) -> bool:
    """What the field selector of a watch on Events lets through."""
    selected = dict(field.split("=") for field in fields.split(",") if field)
    about = thing.get("involvedObject", {})
    seen = {"involvedObject.uid": about.get("uid"), "reason": thing.get("reason")}
    return all(seen[field] == value for field, value in selected.items() if field in seen)


class Said(list[str]):
    async def tell(self, text: str) -> None:
        self.append(text)


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def start(stage: Stage, said: Said | None = None, wish: Wish = WISH) -> Agent:
    return await agents.start(stage, wish, (said if said is not None else Said()).tell)


RUNNING: dict[str, Any] = {"running": {}}


async def test_a_new_one(stage: Stage, nursery: trio.Nursery) -> None:
    async def controllers() -> None:
        await trio.testing.wait_all_tasks_blocked()
        stage.put_pod("job-1", {"waiting": {"reason": "ContainerCreating"}})
        await trio.testing.wait_all_tasks_blocked()
        stage.put_pod("job-1", RUNNING)

    nursery.start_soon(controllers)
    said = Said()
    agent = await start(stage, said)
    assert agent == Agent("shop", NAME, "job-1", "pod-of-job-1", is_begun=True)
    assert said == [
        f"agent {NAME} is asked for",
        "waiting for node node-1 to start the agent's container",
        "the agent's container runs",
    ]
    assert stage.removed == []


async def test_the_node_says_first_that_it_has_started_it(stage: Stage, nursery: trio.Nursery) -> None:
    """And not of another container, or another pod."""
    is_started = False

    async def controllers() -> None:
        nonlocal is_started
        await trio.testing.wait_all_tasks_blocked()
        stage.put_pod("job-1", {"waiting": {"reason": "ContainerCreating"}})
        for uid, container in [("pod-job-0", "agent"), ("pod-job-1", "istio-proxy"), ("pod-job-1", "agent")]:
            await trio.testing.wait_all_tasks_blocked()
            is_started = (uid, container) == ("pod-job-1", "agent")
            stage.put_event({"uid": uid, "fieldPath": f"spec.containers{{{container}}}"}, "Started")

    nursery.start_soon(controllers)
    assert await start(stage) == Agent("shop", NAME, "job-1", "pod-of-job-1", is_begun=True)
    assert is_started


async def test_who_may_not_see_events_sees_it_from_the_pod(stage: Stage, nursery: trio.Nursery) -> None:
    async def controllers() -> None:
        await trio.testing.wait_all_tasks_blocked()
        stage.put_pod("job-1", {"waiting": {"reason": "ContainerCreating"}})
        await trio.testing.wait_all_tasks_blocked()
        stage.put_pod("job-1", RUNNING)

    stage.forbidden.add(EVENTS)
    nursery.start_soon(controllers)
    assert (await start(stage)).pod == "pod-of-job-1"


async def test_one_that_runs_is_joined(stage: Stage) -> None:
    stage.put_pod("job-0", RUNNING)
    assert await start(stage) == Agent("shop", NAME, "job-0", "pod-of-job-0", is_begun=False)
    assert stage.made == 0


@pytest.mark.parametrize(
    "conflict",
    [
        ApiError(409, "Conflict", "Precondition failed: UID in precondition: job-0, UID in object meta: job-1"),
        ApiError(422, "Invalid", 'Job.batch "x" is invalid: [metadata.uid: Invalid value: "job-0": field is immutable'),
    ],
)
async def test_one_whose_job_is_another_already_is_not_joined(
    stage: Stage, nursery: trio.Nursery, conflict: ApiError
) -> None:
    stage.conflict = conflict

    async def controllers() -> None:
        await trio.testing.wait_all_tasks_blocked()
        stage.put(JOBS, {"metadata": {"name": NAME, "uid": "job-1"}})
        stage.put_pod("job-0", RUNNING)  # is told, and gone at once
        del stage.objects[PODS]["pod-of-job-0"]
        await trio.testing.wait_all_tasks_blocked()
        stage.put_pod("job-1", RUNNING)

    stage.put(JOBS, {"metadata": {"name": NAME, "uid": "job-0"}})
    nursery.start_soon(controllers)
    assert (await start(stage)).job_uid == "job-1"
    assert stage.lifted == ["job-1"]


async def test_one_that_somebody_else_has_just_begun_is_joined(stage: Stage, nursery: trio.Nursery) -> None:
    async def controllers() -> None:
        await trio.testing.wait_all_tasks_blocked()
        stage.put_pod("job-0", RUNNING)

    stage.put(JOBS, {"metadata": {"name": NAME, "uid": "job-0"}})
    nursery.start_soon(controllers)
    said = Said()
    assert await start(stage, said) == Agent("shop", NAME, "job-0", "pod-of-job-0", is_begun=False)
    assert said == ["joining the agent in pod pod-of-job-0"]


@pytest.mark.parametrize(
    "status", [{"conditions": [{"type": "Complete", "status": "True"}]}, {"succeeded": 1}, {"failed": 1}]
)
async def test_one_that_has_ended_is_replaced(stage: Stage, nursery: trio.Nursery, status: dict[str, Any]) -> None:
    async def controllers() -> None:
        await trio.testing.wait_all_tasks_blocked()
        stage.put_pod("job-1", RUNNING)

    stage.put(JOBS, {"metadata": {"name": NAME, "uid": "job-0"}, "spec": {}, "status": status})
    stage.put_pod("job-0", {"terminated": {"exitCode": 0}}, phase="Succeeded")
    nursery.start_soon(controllers)
    assert (await start(stage)).job_uid == "job-1"
    assert stage.removed == ["job-0"]


async def test_one_whose_pod_ends_before_its_job_knows_is_replaced(stage: Stage, nursery: trio.Nursery) -> None:
    async def controllers() -> None:
        while not stage.made:
            await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        stage.put_pod("job-1", RUNNING)

    stage.put(JOBS, {"metadata": {"name": NAME, "uid": "job-0"}})
    stage.put_pod("job-0", {"terminated": {"exitCode": 0}}, phase="Succeeded")
    nursery.start_soon(controllers)
    assert (await start(stage)).job_uid == "job-1"


async def test_one_that_is_being_removed_is_waited_for(stage: Stage, nursery: trio.Nursery) -> None:
    async def controllers() -> None:
        await trio.testing.wait_all_tasks_blocked()
        await stage.delete(f"{JOBS}/{NAME}", uid="job-0")
        await trio.testing.wait_all_tasks_blocked()
        stage.put_pod("job-1", RUNNING)

    stage.put(JOBS, {"metadata": {"name": NAME, "uid": "job-0", "deletionTimestamp": "x"}})
    nursery.start_soon(controllers)
    assert (await start(stage)).job_uid == "job-1"


async def fails_with(stage: Stage, wish: Wish = WISH) -> str:
    with pytest.raises(TargetError) as caught:
        await start(stage, wish=wish)
    return caught.value.sentence


async def test_a_refusal_is_read_from_the_events(stage: Stage, nursery: trio.Nursery) -> None:
    async def controllers() -> None:
        await trio.testing.wait_all_tasks_blocked()
        message = 'pods "x" is forbidden: exceeded quota: small, requested: pods=1'
        stage.put_event({"uid": "job-1"}, "FailedCreate", message)

    nursery.start_soon(controllers)
    assert "quota small of namespace shop refuses" in await fails_with(stage)
    assert stage.removed == ["job-1"]


async def test_an_image_that_is_missing(stage: Stage, nursery: trio.Nursery) -> None:
    async def controllers() -> None:
        await trio.testing.wait_all_tasks_blocked()
        stage.put_pod("job-1", {"waiting": {"reason": "ErrImagePull", "message": "not found"}})

    nursery.start_soon(controllers)
    assert "mirror-agent:1 cannot be pulled (ErrImagePull: not found)" in await fails_with(stage)
    assert stage.removed == ["job-1"]


async def test_a_job_of_somebody_else_is_not_removed(stage: Stage, nursery: trio.Nursery) -> None:
    stage.put(JOBS, {"metadata": {"name": NAME, "uid": "job-0"}})
    stage.put_pod("job-0", {"waiting": {"reason": "ErrImagePull"}})
    assert "cannot be pulled" in await fails_with(stage)
    assert stage.removed == []


async def test_what_may_get_better_is_given_time(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    stage.put(JOBS, {"metadata": {"name": NAME, "uid": "job-0"}})
    stage.put_pod("job-0", conditions=[unschedulable])
    began_at = trio.current_time()
    assert "cannot be scheduled (0/1 nodes)" in await fails_with(stage)
    assert trio.current_time() - began_at == pytest.approx(failures.PATIENCE_S)


async def test_a_silent_node_is_asked_after(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    stage.node["status"] = {"conditions": [{"type": "Ready", "status": "Unknown", "message": "Kubelet stopped"}]}
    stage.put(JOBS, {"metadata": {"name": NAME, "uid": "job-0"}})
    stage.put_pod("job-0")
    began_at = trio.current_time()
    assert "node node-1 is not ready (Kubelet stopped)" in await fails_with(stage)
    assert trio.current_time() - began_at < 10


@pytest.mark.parametrize("path", ["/api/v1/nodes/node-1", EVENTS, PODS])
@pytest.mark.parametrize("error", [Unreachable("the API server is silent"), AccessError("the token file is gone")])
async def test_a_cluster_that_cannot_be_asked_any_more(
    stage: Stage, autojump_clock: trio.testing.MockClock, path: str, error: MirrorError
) -> None:
    stage.broken[path] = error
    stage.put(JOBS, {"metadata": {"name": NAME, "uid": "job-0"}})
    stage.put_pod("job-0")
    with pytest.raises(type(error), match=error.sentence):
        await start(stage)


async def test_it_has_a_deadline_until_it_runs(stage: Stage, nursery: trio.Nursery) -> None:
    async def controllers() -> None:
        await trio.testing.wait_all_tasks_blocked()
        deadline_s = stage.objects[JOBS][NAME]["spec"]["activeDeadlineSeconds"]
        assert WISH.settings.startup_timeout_s < deadline_s < WISH.settings.startup_timeout_s + 60
        assert stage.lifted == []
        stage.put_pod("job-1", RUNNING)

    nursery.start_soon(controllers)
    await start(stage)
    assert stage.lifted == ["job-1"]
    await start(stage)
    assert stage.lifted == ["job-1"], "a warm start asks for more than it needs"


async def test_who_may_not_lift_the_deadline_is_told(stage: Stage, nursery: trio.Nursery) -> None:
    async def controllers() -> None:
        await trio.testing.wait_all_tasks_blocked()
        stage.put_pod("job-1", RUNNING)

    stage.forbidden.add(f"{JOBS}/{NAME}")
    nursery.start_soon(controllers)
    assert "user dev lacks the right to patch jobs.batch" in await fails_with(stage)
    assert stage.removed == ["job-1"]


async def test_who_may_not_lift_the_deadline_may_join(stage: Stage, nursery: trio.Nursery) -> None:
    async def controllers() -> None:
        await trio.testing.wait_all_tasks_blocked()
        stage.put_pod("job-0", RUNNING)

    stage.put(JOBS, {"metadata": {"name": NAME, "uid": "job-0"}})
    stage.forbidden.add(f"{JOBS}/{NAME}")
    nursery.start_soon(controllers)
    assert (await start(stage)).job_uid == "job-0"


async def test_patience_ends(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    stage.forbidden.add(EVENTS)
    sentence = await fails_with(stage, dataclasses.replace(WISH, settings=AgentSettings(startup_timeout_s=20)))
    assert "did not start within 20 s (waited for the cluster to make the agent's pod; user dev lacks" in sentence
    assert "the right to watch events in the whole cluster, which might tell why)" in sentence
    assert stage.removed == ["job-1"]


async def test_who_may_not_see_a_silent_node_is_told(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    stage.node = {}
    stage.put(JOBS, {"metadata": {"name": NAME, "uid": "job-0"}})
    stage.put_pod("job-0")
    sentence = await fails_with(stage)
    assert sentence.count("user dev lacks the right to get nodes in the whole cluster, which might tell why") == 1


async def test_who_may_not_remove_what_fails_is_told(stage: Stage, nursery: trio.Nursery) -> None:
    async def controllers() -> None:
        await trio.testing.wait_all_tasks_blocked()
        stage.put_pod("job-1", {"waiting": {"reason": "ErrImagePull", "message": "not found"}})

    stage.is_kept = True
    nursery.start_soon(controllers)
    sentence = await fails_with(stage)
    assert "mirror-agent:1 cannot be pulled" in sentence
    assert f"(its Job {NAME} stays for up to 91 s, as user dev lacks the right to delete jobs.batch" in sentence


@pytest.mark.parametrize(("ttl_s", "is_waited_for"), [(1, True), (1000, False), (None, False)])
async def test_one_that_has_ended_and_may_not_be_removed(
    stage: Stage, autojump_clock: trio.testing.MockClock, ttl_s: int | None, is_waited_for: bool
) -> None:
    """If the cluster removes it in time that is as good."""
    spec = {} if ttl_s is None else {"ttlSecondsAfterFinished": ttl_s}
    stage.put(JOBS, {"metadata": {"name": NAME, "uid": "job-0"}, "spec": spec, "status": {"failed": 1}})
    stage.is_kept = True
    began_at = trio.current_time()
    sentence = await fails_with(stage)
    assert ("lacks the right to delete jobs.batch in namespace shop, which mirror needs" in sentence) != is_waited_for
    assert (trio.current_time() > began_at) == is_waited_for


async def test_an_interrupted_start_leaves_nothing(stage: Stage) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start, stage)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert stage.removed == ["job-1"]


async def test_agents_that_end_again_and_again(stage: Stage, nursery: trio.Nursery) -> None:
    async def controllers() -> None:
        for number in range(1, 4):
            while stage.made < number:
                await trio.testing.wait_all_tasks_blocked()
            stage.put_pod(f"job-{number}", {"terminated": {"exitCode": 0}})

    nursery.start_soon(controllers)
    assert "ended before it could be joined" in await fails_with(stage)
