"""An agent in the cluster: the Job that runs it, and how a session comes to have one.

The Job's name is a hash of whatever makes one agent differ from another (target, features, image, protocol), so that
sessions with the same needs find each other's: the second joins. It is never asked who started it, since an agent ends
by itself when nobody has needed it for a while, and the cluster then removes the Job (`ttlSecondsAfterFinished`).
One that never comes up cannot do so, and whoever asked for it may be gone: until its container runs the Job has a
deadline, which each session that has waited for it lifts.

    list pods ── one runs ──────────────────────────────────────────────────▶ join
        └─ none ── create the Job ── made ── watch ── its container runs ───▶ begin
                         └─ there is one already ── it lives ── watch ──────▶ join
                                  └─ it has ended, or goes ── remove it, and again

While a pod is awaited three things are watched: the pods of the Job, and its Events, since why a pod was refused is
said nowhere else; and the pod's Events, since the node tells at once that it has started a container, and only up to a
second later how the pod is. What they mean is said in `failures`. Pure are `name_of` and `manifest`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from mirror.cli.cluster import failures
from mirror.cli.cluster.api import Api, ApiError, Object
from mirror.cli.cluster.failures import Ended, Refused, Running, Waiting
from mirror.cli.cluster.identity import FILE, Identity
from mirror.cli.cluster.targets import AGENT_LABELS, Place
from mirror.cli.errors import MirrorError, TargetError
from mirror.cli.settings import AgentSettings
from mirror.protocol.features import linux_capabilities
from mirror.protocol.messages import PROTOCOL_VERSION

PORT = 61337
"""On the loopback of the agent's own pod, where nobody else listens."""
CONTAINER = "agent"
IMAGE = "mirror-agent"
SELECTOR = ",".join(f"{label}={value}" for label, value in AGENT_LABELS.items())
"""All agents of a namespace."""

_INSTANCE = "app.kubernetes.io/instance"
_ABOUT = "mirror-agent"
"""The prefix of the annotations that say for whom an agent is."""
_OUT_OF_MESHES = {
    "sidecar.istio.io/inject": "false",
    "linkerd.io/inject": "disabled",
    "kuma.io/sidecar-injection": "disabled",
}
"""Istio and Kuma read the label, Linkerd the annotation; older ones of each the other."""
_TRIES = 3
"""How often an agent may come to its end just when it is joined."""
_REMOVAL_WITHIN_S = 20.0
"""A Job that goes takes its pod with it: at most the pod's grace period, and a busy cluster."""
_LOOK_AGAIN_S = 0.1
"""For a Job that is being removed."""
_ASKING_WITHIN_S = 2.0
"""One request, when nobody wants to wait."""
_SILENT_S = 5.0
"""A node that has shown nothing for so long is asked after."""
_NOBODY = 65534
"""An agent without a target needs no rights, and so may run where PodSecurity is `restricted`."""
_ABANDONED_S = 30
"""How long a Job stays after its startup timeout if nobody lifts its deadline: more than lifting it ever takes."""
_GRACE_PERIOD_S = 2
"""Between SIGTERM and SIGKILL; the agent needs some milliseconds."""

_SECRETS_PLACE = {"name": "identity", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
"""A volume that no other container mounts, for `identity.FILE`."""

Tell = Callable[[str], Awaitable[None]]
"""Shows the user what is being done."""


@dataclasses.dataclass(frozen=True)
class Wish:
    """Which agent a session needs.

    Attributes:
        place: Beside what; None: it stands in for itself (targetless).
        namespace: Where it runs.
        features: What it is to do.
        settings: The user's.
        image: Its image.
    """

    place: Place | None
    namespace: str
    features: tuple[str, ...]
    settings: AgentSettings
    image: str
    avoided: frozenset[str] = frozenset()
    """Uids of Jobs whose agents are not to be joined: they have been removed, and may still be seen to run."""
    needs_incoming: bool = False
    """Whether an agent without incoming traffic is of no use; none is put where it could not have that."""


@dataclasses.dataclass(frozen=True)
class Agent:
    """An agent whose container runs.

    Attributes:
        namespace: Of the Job and its pod.
        job: The Job's name.
        job_uid: Its uid.
        pod: The pod's name.
        is_begun: Whether the Job was made for this session.
        container: That in which it runs, of its pod. If it is an ephemeral one there is no Job.
        is_guarded: Whether it serves only who has its secret.
        is_direct: Whether it is to be reached at its pod's address.
        identity: That secret, once it is known.
        address: That address, once it is known.
        reasons: For a feature that it cannot have though it was wanted, a sentence.
    """

    namespace: str
    job: str
    job_uid: str
    pod: str
    is_begun: bool
    container: str = CONTAINER
    is_guarded: bool = False
    is_direct: bool = False
    identity: Identity | None = None
    address: str = ""
    reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def judge(self, pod: Object) -> failures.Verdict:
        """What becomes of it, by what the cluster says of its pod."""
        return failures.judge(pod if self.job else failures.view_of_ephemeral(pod, self.container))


# --- the Job ----------------------------------------------------------------------------------------------


def default_image() -> str:
    """The agent's image of this release.

    Raises:
        MirrorError: This is no release.
    """
    from importlib import metadata

    try:
        return f"{IMAGE}:{metadata.version('mirror')}"
    except metadata.PackageNotFoundError:
        raise MirrorError(
            "mirror is not installed, so it has no version; name the agent's image with --agent-image"
        ) from None


def name_of(wish: Wish) -> str:
    """The name of the Job: the same for everybody who could share the agent."""
    place, settings = wish.place, wish.settings
    differs = [
        [place.pod_uid, place.container_id] if place is not None else "targetless",
        wish.features,
        PROTOCOL_VERSION,
        wish.image,
        settings.is_privileged,
        settings.dropped_capabilities,
        # What keeps an ephemeral container from its start cannot be corrected in it: the next one has another name.
        [settings.image_pull_policy, settings.seccomp_profile] if settings.is_ephemeral else None,
        settings.transport,
    ]
    return "mirror-agent-" + hashlib.sha256(json.dumps(differs).encode()).hexdigest()[:16]


def manifest(wish: Wish) -> dict[str, Any]:
    """The Job that runs an agent: with some privileges beside a target, or without any and without a target.

    It gets to the target's node by affinity and not by `nodeName`, which would bypass the scheduler: on a full node the
    pod then is unschedulable, with what is missing, may displace others by its priority, and never fails with OutOfcpu.
    """
    settings = wish.settings
    name = name_of(wish)
    labels = {
        **(_OUT_OF_MESHES if settings.is_kept_out_of_meshes else {}),
        **settings.labels,
        **AGENT_LABELS,
        _INSTANCE: name,
    }
    annotations = {
        **(_OUT_OF_MESHES if settings.is_kept_out_of_meshes else {}),
        **settings.annotations,
        **(_about(wish.place) if wish.place is not None else {}),
        f"{_ABOUT}/features": ",".join(wish.features),
        **_app_armor_annotation(settings.app_armor_profile),
    }
    pod = {
        "restartPolicy": "Never",
        **(_beside(wish.place) if wish.place is not None else {"nodeSelector": dict(settings.node_selector)}),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_PERIOD_S,
        "tolerations": [dict(toleration) for toleration in settings.tolerations],
        "containers": [_container(wish)],
        **({"volumes": [_SECRETS_PLACE]} if is_guarded(wish) else {}),
        **({"serviceAccountName": settings.service_account} if settings.service_account else {}),
        **({"priorityClassName": settings.priority_class} if settings.priority_class else {}),
        "imagePullSecrets": [{"name": each} for each in settings.image_pull_secrets],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": _deadline_s(settings),
            "ttlSecondsAfterFinished": settings.ttl_s,
            "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
        },
    }


def _deadline_s(settings: AgentSettings) -> int:
    """How long a Job may last whose agent does not come up."""
    return math.ceil(settings.startup_timeout_s) + _ABANDONED_S


def _container(wish: Wish) -> dict[str, Any]:
    mount = {"name": _SECRETS_PLACE["name"], "mountPath": os.path.dirname(FILE)}
    return {
        **container(wish, CONTAINER),
        "resources": {name: dict(quantities) for name, quantities in wish.settings.resources.items()},
        "securityContext": {**security_context(wish), "readOnlyRootFilesystem": True},
        **({"volumeMounts": [mount]} if is_guarded(wish) else {}),
    }


def container(wish: Wish, name: str) -> dict[str, Any]:
    """What the agent's container is in any pod."""
    return {
        "name": name,
        "image": wish.image,
        "imagePullPolicy": wish.settings.image_pull_policy,
        "args": _arguments(wish),
        # Its last words, where reading the pod is enough: the right to read logs is not needed.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def is_guarded(wish: Wish) -> bool:
    """Whether others can reach the agent's port, so that it must serve only who has its secret."""
    return wish.settings.is_ephemeral or wish.settings.transport == "direct"


def _arguments(wish: Wish) -> list[str]:
    """As `mirror.agent.options` reads them."""
    settings = wish.settings
    arguments = {
        # In the target's pod no port is ours; which it is, its identity tells.
        "--listen": 0 if settings.is_ephemeral else PORT,
        **({"--container": wish.place.container_id} if wish.place is not None else {}),
        **({"--identity": FILE} if is_guarded(wish) else {}),
        "--features": ",".join(wish.features),
        "--grace": wish.settings.grace_s,
        "--first-client-within": wish.settings.first_client_within_s,
    }
    flags = {"--targetless": wish.place is None, "--direct": settings.transport == "direct"}
    return [
        *(str(word) for pair in arguments.items() for word in pair),
        *(flag for flag, is_wanted in flags.items() if is_wanted),
    ]


def security_context(wish: Wish) -> dict[str, Any]:
    """What the agent's container may do."""
    settings = wish.settings
    needed = linux_capabilities(wish.features, targetless=wish.place is None, in_the_pod=settings.is_ephemeral)
    added = [capability for capability in needed if capability not in settings.dropped_capabilities]
    # With another uid added capabilities would not be in effect.
    user = 0 if added or wish.place is not None else _NOBODY
    return {
        "runAsUser": user,
        "runAsGroup": user,
        "runAsNonRoot": user != 0,
        "capabilities": {"drop": ["ALL"], "add": added},
        **({"seccompProfile": dict(settings.seccomp_profile)} if settings.seccomp_profile else {}),
        **({"appArmorProfile": dict(settings.app_armor_profile)} if settings.app_armor_profile else {}),
        **({"seLinuxOptions": dict(settings.se_linux_options)} if settings.se_linux_options else {}),
        **({"privileged": True} if settings.is_privileged else {}),
        # The API refuses to have it off beside either of them.
        **({} if settings.is_privileged or "SYS_ADMIN" in added else {"allowPrivilegeEscalation": False}),
    }


def _app_armor_annotation(profile: Mapping[str, str]) -> dict[str, str]:
    """What Kubernetes before 1.30 reads instead of the field, which it drops without a word."""
    if not profile:
        return {}
    kind = profile["type"]
    value = {"RuntimeDefault": "runtime/default", "Unconfined": "unconfined"}.get(
        kind, f"localhost/{profile.get('localhostProfile', '')}"
    )
    return {f"container.apparmor.security.beta.kubernetes.io/{CONTAINER}": value}


def _about(place: Place) -> dict[str, str]:
    return {
        f"{_ABOUT}/target-namespace": place.namespace,
        f"{_ABOUT}/target-pod": place.pod,
        f"{_ABOUT}/target-container": place.container,
    }


def _beside(place: Place) -> dict[str, Any]:
    """On the target's node (as the DaemonSet controller does it), and able to see its processes."""
    field = {"key": "metadata.name", "operator": "In", "values": [place.node]}
    return {
        "hostPID": True,
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [field]}]}
            }
        },
    }


# --- start or join ----------------------------------------------------------------------------------------


async def start(api: Api, wish: Wish, tell: Tell) -> Agent:
    """An agent as wished whose container runs: one that is there already, or a new one.

    If it is cancelled, or fails, the Job that it has made is removed.

    Args:
        api: The cluster.
        wish: Which agent.
        tell: Called with each step.

    Raises:
        MirrorError: There will be none; the sentence says why.
    """
    try:
        return await until_joined(lambda: _start_once(api, wish, tell))
    except ApiError as error:
        option = "--agent-namespace" if wish.settings.namespace else "-n"
        raise TargetError(failures.explain(error, "start an agent", wish.namespace, option)) from None


async def until_joined(start_once: Callable[[], Awaitable[Agent | None]]) -> Agent:
    """An agent, after some tries.

    Args:
        start_once: One try; its result is None if the agent ended meanwhile.

    Raises:
        TargetError: Each did.
    """
    for _ in range(_TRIES):
        agent = await start_once()
        if agent is not None:
            return agent
    raise TargetError("each agent that was there ended before it could be joined; try again")


async def _start_once(api: Api, wish: Wish, tell: Tell) -> Agent | None:
    """The same; None: it ended meanwhile."""
    name = name_of(wish)
    pods = await api.list(_pods_path(wish.namespace), {"labelSelector": f"{_INSTANCE}={name}"})
    for pod in pods:
        if isinstance(failures.judge(pod), Running) and _owner_uid(pod) not in wish.avoided:
            await tell(f"joining the agent in pod {pod['metadata']['name']}")
            # Its deadline has been lifted, unless whoever waited for it was killed just then: a session outlives that.
            return _agent(wish, _owner_uid(pod), pod["metadata"]["name"], is_begun=False)
    job, is_begun = await _create_or_get(api, wish, tell)
    if job is None:
        return None
    agent = _agent(wish, job["metadata"]["uid"], "", is_begun)
    try:
        pod_name = await _Start(api, wish, agent, tell).run()
        if pod_name and not await _lift_deadline(api, agent):
            pod_name = ""
    except BaseException as error:
        refusal = await remove(api, agent) if is_begun else None
        if refusal is not None and isinstance(error, TargetError):
            raise TargetError(f"{error.sentence} ({_say_left(wish, agent, refusal)})") from None
        raise
    if not pod_name:
        await remove(api, agent)  # with no pod left to come (backoffLimit), it is only in the way
        await _wait_gone(api, agent)
        return None
    await tell("the agent's container runs" if is_begun else f"joining the agent in pod {pod_name}")
    return dataclasses.replace(agent, pod=pod_name)


def _agent(wish: Wish, job_uid: str, pod: str, is_begun: bool) -> Agent:
    is_direct = wish.settings.transport == "direct"
    return Agent(
        wish.namespace, name_of(wish), job_uid, pod, is_begun, is_guarded=is_guarded(wish), is_direct=is_direct
    )


async def _create_or_get(api: Api, wish: Wish, tell: Tell) -> tuple[Object | None, bool]:
    """The Job, and whether it is new; None: an old one was in the way, and has been removed."""
    path = _jobs_path(wish.namespace)
    try:
        job = await api.create(path, manifest(wish))
    except ApiError as error:
        if error.status != 409:
            raise
    else:
        await tell(f"agent {job['metadata']['name']} is asked for")
        return job, True
    try:
        job = await api.get(f"{path}/{name_of(wish)}")
    except ApiError as error:
        if error.status != 404:
            raise
        return None, False
    if not _is_over(job):
        return job, False
    await tell("the last agent is being removed")
    agent = _agent(wish, job["metadata"]["uid"], "", is_begun=False)
    if not job["metadata"].get("deletionTimestamp"):
        refusal = await remove(api, agent)
        stays_s = job["spec"].get("ttlSecondsAfterFinished")
        if refusal is not None and (stays_s is None or stays_s > _REMOVAL_WITHIN_S):
            raise refusal
    await _wait_gone(api, agent)
    return None, False


def _is_over(job: Object) -> bool:
    """Whether a Job will run nothing more."""
    status = job.get("status") or {}
    has_ended = any(
        condition["type"] in ("Complete", "Failed") and condition["status"] == "True"
        for condition in status.get("conditions") or ()
    )
    return bool(
        has_ended or status.get("succeeded") or status.get("failed") or job["metadata"].get("deletionTimestamp")
    )


async def _wait_gone(api: Api, agent: Agent) -> None:
    """Until that very Job is gone, or for _REMOVAL_WITHIN_S; without a watch, which would take one more right."""
    with trio.move_on_after(_REMOVAL_WITHIN_S):
        while True:
            try:
                job = await api.get(f"{_jobs_path(agent.namespace)}/{agent.job}")
            except ApiError as error:
                if error.status == 404:
                    return
                raise
            if job["metadata"]["uid"] != agent.job_uid:
                return
            await trio.sleep(_LOOK_AGAIN_S)


async def _lift_deadline(api: Api, agent: Agent) -> bool:
    """Lets that very Job run for as long as it likes; whether it is still there."""
    lifted: Object = {"metadata": {"uid": agent.job_uid}, "spec": {"activeDeadlineSeconds": None}}
    try:
        await api.patch(f"{_jobs_path(agent.namespace)}/{agent.job}", lifted)
    except ApiError as error:
        # Another Job of the name is a conflict; before Kubernetes 1.24 it was an invalid change of its uid.
        if error.status in (404, 409) or (error.status == 422 and "metadata.uid" in error.message):
            return False
        if error.status == 403 and not agent.is_begun:
            return True  # whoever began it may, and has
        raise
    return True


async def remove(api: Api, agent: Agent) -> ApiError | None:
    """Removes that very Job and its pod, also while being cancelled. Does not wait for it.

    Returns:
        That this user may not, if so.
    """
    with (
        trio.CancelScope(shield=True),
        trio.move_on_after(_ASKING_WITHIN_S),
        contextlib.suppress(MirrorError),
    ):
        try:
            await api.delete(f"{_jobs_path(agent.namespace)}/{agent.job}", uid=agent.job_uid)
        except ApiError as error:
            if error.status == 403:
                return error
    return None


def _say_left(wish: Wish, agent: Agent, refusal: ApiError) -> str:
    """That a Job stays, by the reason why it could not be removed."""
    within_s = _deadline_s(wish.settings) + wish.settings.ttl_s
    return f"its Job {agent.job} stays for up to {within_s} s, as {failures.say_refused(refusal)}"


async def remove_hung(api: Api, agent: Agent) -> None:
    """Removes that very Job and its pod, of an agent that does not answer.

    Raises:
        TargetError: This user may not, or it has no Job; the sentence says what to do.
        Unreachable: The API server does not answer.
    """
    hung = f"the agent in pod {agent.pod} does not answer"
    if not agent.job:
        raise TargetError(
            f"{hung}, and as an ephemeral container it cannot be removed; have the pod replaced, or leave out "
            f"--ephemeral, so that the agent has a pod of its own"
        )
    try:
        await api.delete(f"{_jobs_path(agent.namespace)}/{agent.job}", uid=agent.job_uid)
    except ApiError as error:
        if error.status in (404, 409):
            return  # somebody else has done so
        remedy = f"have it removed with `mirror agents --remove {agent.job} -n {agent.namespace}`"
        why = failures.say_refused(error) or error.reason
        raise TargetError(f"{hung}, and mirror could not remove it ({why}); {remedy}") from None


def _jobs_path(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def _pods_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def _events_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/events"


def _owner_uid(pod: Object) -> str:
    return next((str(owner["uid"]) for owner in pod["metadata"].get("ownerReferences") or ()), "")


class _Start:
    """Waits for the pod of one Job, with everything watched that could explain why there is none."""

    def __init__(self, api: Api, wish: Wish, agent: Agent, tell: Tell) -> None:
        self._api = api
        self._wish = wish
        self._agent = agent
        self._tell = tell
        self._scope = trio.CancelScope()
        self._outcome: str | Exception | None = None
        self._waits_for = "the cluster to make the agent's pod"
        self._complaint = ""
        self._changed = trio.Event()
        self._node = ""
        self._pod_uid = ""
        """Of the pod whose Events are watched."""
        self._unseen: list[str] = []
        """What would tell more, and this user may not see."""

    async def run(self) -> str:
        """The name of the pod whose container runs; empty: it has ended.

        Raises:
            TargetError: It will not run.
            ApiError: This user may not watch it.
            MirrorError: The API server does not answer, or there are no credentials for it any more.
        """
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_pods, nursery)
                nursery.start_soon(self._watch_events)
                nursery.start_soon(self._grow_impatient)
                nursery.start_soon(self._give_up)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def _conclude(self, outcome: str | Exception) -> None:
        if self._outcome is None:
            self._outcome = outcome
            self._scope.cancel()

    async def _watch_pods(self, nursery: trio.Nursery) -> None:
        selector = {"labelSelector": f"{_INSTANCE}={self._agent.job}"}
        try:
            async with self._api.watch(_pods_path(self._agent.namespace), selector) as events:
                async for kind, pod in events:
                    if _owner_uid(pod) == self._agent.job_uid:
                        if pod["metadata"]["uid"] != self._pod_uid:
                            self._pod_uid = pod["metadata"]["uid"]
                            nursery.start_soon(self._watch_start, pod["metadata"]["name"], self._pod_uid)
                        await self._see_pod(kind, pod)
        except (ApiError, MirrorError) as error:
            self._conclude(error)

    async def _see_pod(self, kind: str, pod: Object) -> None:
        self._node = pod["spec"].get("nodeName", "")
        verdict = Ended() if kind == "DELETED" else failures.judge(pod)
        match verdict:
            case Running():
                self._conclude(pod["metadata"]["name"])
            case Refused(sentence):
                self._conclude(TargetError(sentence))
            case Ended():
                self._conclude("")
            case Waiting(what, complaint):
                if what != self._waits_for:
                    self._waits_for = what
                    self._changed.set()
                    self._changed = trio.Event()
                    await self._tell(f"waiting for {what}")
                self._complaint = complaint

    async def _watch_start(self, pod: str, uid: str) -> None:
        """Sees the node start the agent's container. Without this the pod's state says it, if later."""
        selector = {"fieldSelector": f"involvedObject.uid={uid},reason=Started"}
        container = f"spec.containers{{{CONTAINER}}}"
        with contextlib.suppress(ApiError, MirrorError):
            async with self._api.watch(_events_path(self._agent.namespace), selector) as events:
                async for _, event in events:
                    if event["involvedObject"].get("fieldPath") == container:
                        self._conclude(pod)

    async def _watch_events(self) -> None:
        """Sees the Job's refusals. Its pod may have been refused long since when an agent is joined."""
        selector = {"fieldSelector": f"involvedObject.uid={self._agent.job_uid},reason=FailedCreate"}
        try:
            async with self._api.watch(_events_path(self._agent.namespace), selector) as events:
                async for _, event in events:
                    sentence = failures.explain_refused_pod(event.get("message", ""), self._agent.namespace)
                    self._conclude(TargetError(sentence))
        except ApiError as error:
            self._unseen.append(failures.say_refused(error))
            await self._tell(f"{self._unseen[-1]}, so this may take a second longer, and a refused pod is not told")
        except MirrorError as error:
            self._conclude(error)

    async def _grow_impatient(self) -> None:
        """Fails when a complaint has stood long enough, and asks after a node from which nothing is heard."""
        while True:
            changed = self._changed
            with trio.move_on_after(failures.PATIENCE_S):
                await changed.wait()
                continue
            if self._complaint:
                self._conclude(TargetError(self._complaint))
            with trio.move_on_after(_SILENT_S - failures.PATIENCE_S):
                await changed.wait()
                continue
            try:
                node = await self._api.get(f"/api/v1/nodes/{self._node}") if self._node else None
            except ApiError as error:  # who may not see nodes must wait
                if (unseen := failures.say_refused(error)) not in self._unseen:
                    self._unseen.append(unseen)
                continue
            except MirrorError as error:
                self._conclude(error)
                return
            if node is not None and (sentence := failures.say_node_silent(node)):
                self._conclude(TargetError(sentence))

    async def _give_up(self) -> None:
        await trio.sleep(self._wish.settings.startup_timeout_s)
        hints = "".join(f"; {unseen}, which might tell why" for unseen in self._unseen)
        self._conclude(
            TargetError(
                f"the agent did not start within {self._wish.settings.startup_timeout_s:.0f} s (waited for "
                f"{self._waits_for}{hints}); look at `kubectl -n {self._agent.namespace} describe job "
                f"{self._agent.job}` while it tries again, or give it longer with --agent-startup-timeout"
            )
        )
