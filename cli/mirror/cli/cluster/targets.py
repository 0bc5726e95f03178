"""Names of targets in a cluster, and which pod and container they mean.

A target is `KIND/NAME`, with `/container/NAME` after it where the container matters. Every kind leads to a set of pods;
of those that are ready one is chosen, by a rule that gives every user the same one, so that they share an agent. What
decides is pure (`order_ready`, `choose_container`, `say_why_unready`, `say_gone`); the few requests are in `find`, and
`follow` sees pods come and go.

Names are taken apart in `reference`; nothing here makes an agent (`agents`).
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from mirror.cli.cluster import failures
from mirror.cli.cluster.api import Api, ApiError
from mirror.cli.cluster.probes import Probes, find_probes
from mirror.cli.cluster.reference import BY_NAME, Reference
from mirror.cli.errors import TargetError

Object = Mapping[str, Any]
"""A Kubernetes object as the API server sends it."""

SIDECARS = frozenset(
    {
        "istio-proxy", "linkerd-proxy", "kuma-sidecar", "envoy", "envoy-sidecar", "consul-connect-envoy-sidecar",
        "consul-dataplane", "aws-appmesh-envoy", "traefik-mesh", "osm-proxy", "daprd", "vault-agent", "queue-proxy",
        "cloud-sql-proxy", "cloudsql-proxy", "traffic-agent", "fluent-bit", "fluentd", "filebeat", "otc-container",
        "jaeger-agent", "datadog-agent", "gke-gcsfuse-sidecar", "oauth2-proxy", "kube-rbac-proxy",
    }
)  # fmt: skip
"""Containers that service meshes and the like put beside the one that a user means."""
AGENT_LABELS = {"app.kubernetes.io/name": "mirror-agent", "app.kubernetes.io/managed-by": "mirror"}
"""What all agents have: their Jobs and their pods."""
_BEING_MADE = ": ContainerCreating"
"""What a node says of a container that waits for its volumes or its network; why it has to is only in an Event."""
_STATUSES = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
"""The annotation by which a pod says which container kubectl is to take."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A running container of a ready pod: what an agent is put beside."""

    namespace: str
    pod: str
    pod_uid: str
    node: str
    container: str
    container_id: str
    """Without the runtime's name before it."""
    probes: Probes = dataclasses.field(default_factory=Probes)
    """Of the whole pod."""

    def __str__(self) -> str:
        return f"container {self.container} of pod {self.namespace}/{self.pod}"


@dataclasses.dataclass(frozen=True)
class Found:
    """What a target means.

    Attributes:
        place: The one that lends its files, environment, names and outgoing connections.
        replicas: All of them, `place` first, for incoming connections.
        scope: Which of the namespace's pods are the target's, as parameters of a list or a watch.
    """

    place: Place
    replicas: tuple[Place, ...]
    scope: Mapping[str, str]


class NoTarget(TargetError):
    """There is none at present; there may be one by itself."""

    is_passing = True


# --- decisions --------------------------------------------------------------------------------------------


def is_ready(pod: Object) -> bool:
    """Whether a pod serves, and is not being taken down."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod.get("status", {}).get("conditions") or ()
    )


def order_ready(pods: Iterable[Object]) -> list[Object]:
    """The pods that are ready, the one to choose first.

    Of the youngest owner's pods (the ReplicaSet that a rollout brings, not the one that it takes away) the oldest,
    which is the last to go when replicas become fewer.
    """
    ready = [pod for pod in pods if is_ready(pod)]
    youngest: dict[str, str] = {}
    for pod in ready:
        owner = _controller_uid(pod)
        youngest[owner] = max(youngest.get(owner, ""), _created(pod))
    owners = sorted(sorted(youngest), key=lambda uid: youngest[uid], reverse=True)
    return sorted(ready, key=lambda pod: (owners.index(_controller_uid(pod)), _created(pod), pod["metadata"]["name"]))


def choose_container(pod: Object, wanted: str = "") -> Place:
    """Takes a container of a ready pod.

    Args:
        pod: The pod.
        wanted: Its name; empty: that which the pod says to be the default, or the first that is no known sidecar.

    Raises:
        TargetError: There is no such container, or it does not run.
    """
    metadata, status = pod["metadata"], pod.get("status", {})
    name = metadata["name"]
    regular = [container["name"] for container in pod["spec"]["containers"]]
    # Init containers that stay are sidecars, which somebody may want to name; so may be ephemeral ones.
    others = [
        container["name"]
        for field in ("initContainers", "ephemeralContainers")
        for container in pod["spec"].get(field) or ()
    ]
    if not wanted:
        default = (metadata.get("annotations") or {}).get(DEFAULT_CONTAINER, "")
        own = [container for container in regular if container not in SIDECARS]
        wanted = default if default in regular else (own or regular)[0]
    elif wanted not in regular + others:
        raise TargetError(
            f"pod {name} has no container {wanted}{_suggest(wanted, regular)}; it has {_enumerate(regular + others)}"
        )
    statuses = [entry for field in _STATUSES for entry in status.get(field) or () if entry["name"] == wanted]
    running = [entry for entry in statuses if "running" in (entry.get("state") or {}) and entry.get("containerID")]
    if not running:
        why = _say_state(statuses[0]) if statuses else "it has not been started"
        raise TargetError(f"container {wanted} of pod {name} does not run ({why}); name one that does")
    return Place(
        namespace=metadata["namespace"],
        pod=name,
        pod_uid=metadata["uid"],
        node=pod["spec"].get("nodeName", ""),
        container=wanted,
        container_id=_id_of(running[0]),
        probes=find_probes(pod),
    )


def say_gone(place: Place, pods: Iterable[Object]) -> str:
    """Why a place is no more, in a few words; empty if it is there, ready or not."""
    pod = next((pod for pod in pods if pod["metadata"]["uid"] == place.pod_uid), None)
    if pod is None:
        return f"pod {place.pod} is gone"
    if pod["metadata"].get("deletionTimestamp"):
        return f"pod {place.pod} is being removed"
    return "" if _runs(place, pod) else say_ended(place)


def say_ended(place: Place) -> str:
    """That its container is no more, in a few words."""
    return f"container {place.container} of pod {place.pod} has ended"


def is_leaving(place: Place, pods: Iterable[Object]) -> bool:
    """Whether its pod is being removed while its container runs, as it may for the pod's termination grace period."""
    return any(
        pod["metadata"]["uid"] == place.pod_uid and pod["metadata"].get("deletionTimestamp") and _runs(place, pod)
        for pod in pods
    )


def but_for(ended: Collection[str], pods: Iterable[Object]) -> list[Object]:
    """The pods without those of which a container is known to have ended: the cluster may not know that yet.

    Args:
        ended: Ids of containers. A container that is started again has another.
        pods: As the cluster has them.
    """
    return [
        pod
        for pod in pods
        if not any(
            _id_of(entry) in ended
            for field in _STATUSES
            for entry in pod.get("status", {}).get(field) or ()
            if "running" in (entry.get("state") or {})
        )
    ]


def other_places(place: Place, pods: Sequence[Object], known: Iterable[Place] = ()) -> tuple[Place, ...]:
    """The target's replicas beside one: those that are known stay while they are there, others come once ready."""
    staying = [each for each in known if each.pod_uid != place.pod_uid and not say_gone(each, pods)]
    taken = {place.pod_uid, *(each.pod_uid for each in staying)}
    coming = [pod for pod in order_ready(pods) if pod["metadata"]["uid"] not in taken]
    return (*staying, *_places(coming, place.container))


def say_why_unready(pod: Object) -> str:
    """Why a pod is not ready, in a few words: the first that explains the others."""
    status = pod.get("status", {})
    phase = status.get("phase", "Pending")
    if pod["metadata"].get("deletionTimestamp"):
        return "is being removed"
    if phase == "Succeeded":
        return "has completed"
    if phase == "Failed" and status.get("reason"):
        return _with_message(f"has failed: {status['reason']}", status.get("message"))
    # Those that are to stay keep nobody waiting.
    initial = pod["spec"].get("initContainers") or ()
    staying = [each["name"] for each in initial if each.get("restartPolicy") == "Always"]
    for field in ("initContainerStatuses", "containerStatuses"):
        for entry in status.get(field) or ():
            state = entry.get("state") or {}
            ended_well = (state.get("terminated") or {}).get("exitCode") == 0
            is_over = field == "initContainerStatuses" and ended_well
            if not entry.get("ready") and not is_over and (state.keys() & {"waiting", "terminated"}):
                return f"container {entry['name']}: {_say_state(entry)}"
            if field == "initContainerStatuses" and "running" in state and entry["name"] not in staying:
                return f"init container {entry['name']} has not ended"
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _with_message(condition.get("reason", "not scheduled"), condition.get("message"))
    for entry in status.get("containerStatuses") or ():
        if not entry.get("ready"):
            return f"container {entry['name']} runs, but its readiness probe fails"
    for condition in status.get("conditions") or ():
        if condition["type"] == "Ready" and condition.get("message"):
            return _with_message(condition.get("reason", "not ready"), condition["message"])
    return f"is {phase.lower()}"


def say_none_ready(reference: Reference, namespace: str, spec: Object, pods: Sequence[Object]) -> str:
    """Why a target has no ready pod, and what to do.

    Args:
        reference: The target.
        namespace: Where it is.
        spec: Of the object that it names; empty for `label`.
        pods: All of its pods; none is ready.
    """
    where = f"in namespace {namespace}"
    kubectl = f"`kubectl -n {namespace}"
    staying = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    if not staying and spec.get("replicas") == 0:
        last = ", and its last pods are being removed" if pods else ""
        return f"{reference} {where} is scaled to 0{last}; {kubectl} scale {reference} --replicas=1` gives it a pod"
    if not pods:
        if reference.kind.name == "label":
            return f"no pod {where} has the labels {reference.name}; look for a misspelling"
        if reference.kind.name == "service":
            wanted = format_selector({"matchLabels": spec["selector"]})
            return (
                f"no pod {where} has the labels {wanted}, which {reference} selects; start what it is to serve, or "
                f"correct its selector"
            )
        return f"{reference} {where} has no pods; {kubectl} describe {reference}` says why"
    if not staying:
        if reference.kind.name == "pod":
            return f"{reference} {where} is being removed; name another, or the object that makes such pods"
        return f"the pods of {reference} {where} are all being removed; wait for those that take their place"
    reasons = "; ".join(list(dict.fromkeys(say_why_unready(pod) for pod in staying))[:3])
    if all(pod.get("status", {}).get("phase") in ("Succeeded", "Failed") for pod in staying):
        remedy = "begin it anew, or name one that runs"
    elif reasons.endswith(_BEING_MADE):
        name = staying[0]["metadata"]["name"]
        remedy = f"wait for it; if that lasts, {kubectl} describe pod/{name}` says why"
    else:
        remedy = "wait for it, or mend it" if len(staying) == 1 else "wait for one, or mend them"
    if len(staying) == 1:
        return f"pod {staying[0]['metadata']['name']} {where} is not ready ({reasons}); {remedy}"
    return f"none of the {len(staying)} pods of {reference} {where} is ready ({reasons}); {remedy}"


def _say_state(entry: Object) -> str:
    """The state of one container that does not run."""
    state = entry.get("state") or {}
    if waiting := state.get("waiting"):
        reason = waiting.get("reason", "waiting")
        before = (entry.get("lastState") or {}).get("terminated")
        if before and reason == "CrashLoopBackOff":
            return f"{reason}, it ended with exit status {before.get('exitCode')}"
        return _with_message(reason, waiting.get("message"))
    if terminated := state.get("terminated"):
        return _with_message(
            f"{terminated.get('reason', 'ended')} with exit status {terminated.get('exitCode')}",
            terminated.get("message"),
        )
    return "it has not been started"


def _with_message(reason: str, message: str | None) -> str:
    text = failures.in_one_line(message or "")
    return f"{reason}, {text}" if text and text != reason else reason


def _runs(place: Place, pod: Object) -> bool:
    try:
        return choose_container(pod, place.container).container_id == place.container_id
    except TargetError:
        return False


def _id_of(status: Object) -> str:
    """Of the container that a status is about."""
    return str(status.get("containerID") or "").rpartition("://")[2]


def _controller_uid(pod: Object) -> str:
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), str(pod["metadata"].get("uid", "")))


def _created(thing: Object) -> str:
    return str(thing["metadata"].get("creationTimestamp") or "")


def _suggest(wanted: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(wanted, list(names), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _enumerate(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def format_selector(selector: Object) -> str:
    """A label selector of an object as the API takes it in a query."""
    terms = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or ():
        key, values = expression["key"], ",".join(expression.get("values") or ())
        terms.append(
            {
                "In": f"{key} in ({values})",
                "NotIn": f"{key} notin ({values})",
                "Exists": key,
                "DoesNotExist": f"!{key}",
            }[expression["operator"]]
        )
    return ",".join(terms)


def is_agent(thing: Object) -> bool:
    """Whether an object is mirror's own: an agent's Job or its pod."""
    return bool((thing["metadata"].get("labels") or {}).items() >= AGENT_LABELS.items())


# --- requests ---------------------------------------------------------------------------------------------


async def find(
    api: Api,
    reference: Reference,
    namespace: str,
    *,
    former: Place | None = None,
    is_out_of_reach: bool = False,
    known: Collection[Place] = (),
    ended: Collection[str] = (),
) -> Found:
    """Which container of which pod a target means.

    Args:
        api: The cluster.
        reference: The target.
        namespace: In which.
        former: What it meant before: that is kept if it is still there, ready or not, and if its pod is being removed
            for as long as no other is ready.
        is_out_of_reach: Whether that holds for it, too, if it is not ready.
        known: Its replicas until now; as in `other_places`.
        ended: As in `but_for`: what it does not mean.

    Raises:
        NoTarget: There is none, or none that is ready; the sentence says why.
        TargetError: This user may not look for it, or its container does not run.
        Unreachable: The API server does not answer.
    """
    try:
        listed, scope = await _pods_of(api, reference, namespace)
        pods = but_for(ended, listed)
        ready = order_ready(pods)
        if former is not None:
            is_there = not say_gone(former, pods)
            is_ready = any(pod["metadata"]["uid"] == former.pod_uid for pod in ready)
            if (is_there and (is_ready or not is_out_of_reach)) or (not ready and is_there | is_leaving(former, pods)):
                return Found(former, (former, *other_places(former, pods, known)), scope)
        if not ready and order_ready(listed):
            raise NoTarget(
                f"{reference} in namespace {namespace} has ended, as the cluster has yet to see; wait for it"
            )
        if not ready:
            raise await _explain_unready(api, reference, namespace, pods)
    except ApiError as error:
        unknown, hint = await _explain_namespace(api, namespace) if error.status == 403 else (None, "")
        if unknown is not None:
            raise unknown from None  # nobody has rights in it
        raise TargetError(failures.explain(error, f"look for {reference}{hint}", namespace)) from None
    place = choose_container(ready[0], reference.container)
    return Found(place, (place, *other_places(place, pods, known)), scope)


async def follow(api: Api, namespace: str, scope: Mapping[str, str], see: Callable[[Sequence[Object]], bool]) -> None:
    """Shows the pods of a scope, at once and after each change, until it is enough.

    Args:
        api: The cluster.
        namespace: In which.
        scope: As in `Found`.
        see: Is given all of them; returns whether it wants to see more.

    Raises:
        ApiError: This user may not see them.
        Unreachable: The API server does not answer.
    """
    path = f"/api/v1/namespaces/{quote(namespace)}/pods"
    while True:
        listed = await api.get(path, scope)
        pods = {pod["metadata"]["uid"]: pod for pod in listed.get("items") or ()}
        if not see([*pods.values()]):
            return
        async with api.watch(path, scope, version=listed["metadata"]["resourceVersion"]) as events:
            async for kind, pod in events:
                uid = pod["metadata"]["uid"]
                if kind == "ADDED" and uid in pods:
                    break  # the watch was begun again from nothing: what was removed meanwhile only a list can tell
                if kind == "DELETED":
                    pods.pop(uid, None)
                else:
                    pods[uid] = pod
                if not see([*pods.values()]):
                    return


def _places(pods: Iterable[Object], container: str) -> Iterable[Place]:
    for pod in pods:
        try:
            yield choose_container(pod, container)
        except TargetError:  # another kind of pod behind the same service
            continue


async def _pods_of(api: Api, reference: Reference, namespace: str) -> tuple[list[Object], Mapping[str, str]]:
    """All pods that a target stands for, ready or not, and their scope."""
    if reference.kind.name == "pod":
        return [await _get(api, reference, namespace)], {"fieldSelector": f"metadata.name={reference.name}"}
    scope = {"labelSelector": await _selector_of(api, reference, namespace)}
    return list(await api.list(f"/api/v1/namespaces/{quote(namespace)}/pods", scope)), scope


async def _selector_of(api: Api, reference: Reference, namespace: str) -> str:
    """Of the pods of anything but a pod."""
    kind = reference.kind
    if kind.name == "label":
        return reference.name
    found = await _get(api, reference, namespace)
    match kind.name:
        case "service":
            selector = found["spec"].get("selector")
            if not selector:
                raise TargetError(
                    f"{reference} in namespace {namespace} selects no pods (it has no selector); name a pod instead"
                )
            return format_selector({"matchLabels": selector})
        case "cronjob":
            job = await _newest_job(api, found, namespace)
            return format_selector(job["spec"]["selector"])
        case "rollout" if not found["spec"].get("selector"):
            # It may leave selector and template to a Deployment that it takes over.
            borrowed = (found["spec"].get("workloadRef") or {}).get("name", "")
            workload = await _get(api, Reference(BY_NAME["deployment"], borrowed), namespace)
            return format_selector(workload["spec"]["selector"])
        case _:
            return format_selector(found["spec"]["selector"])


async def _get(api: Api, reference: Reference, namespace: str) -> Object:
    kind = reference.kind
    for path in kind.paths:
        try:
            return await api.get(f"{path}/namespaces/{quote(namespace)}/{kind.plural}/{quote(reference.name)}")
        except ApiError as error:
            if error.status != 404:
                raise
    raise await _explain_unknown(api, reference, namespace)


async def _newest_job(api: Api, cronjob: Object, namespace: str) -> Object:
    """The job that a cronjob has begun last, of those that have not ended if there is one."""
    name, uid = cronjob["metadata"]["name"], cronjob["metadata"]["uid"]
    listed = await api.list(f"/apis/batch/v1/namespaces/{quote(namespace)}/jobs")
    jobs = [job for job in listed if _controller_uid(job) == uid]
    if not jobs:
        raise NoTarget(
            f"cronjob/{name} in namespace {namespace} has no job (schedule {cronjob['spec'].get('schedule')!r}); begin "
            f"one with `kubectl -n {namespace} create job --from=cronjob/{name} {name}-now`, and name that"
        )
    return max(
        jobs, key=lambda job: (bool(job.get("status", {}).get("active")), _created(job), job["metadata"]["name"])
    )


async def _explain_unknown(api: Api, reference: Reference, namespace: str) -> NoTarget:
    """That there is no such object, with what might have been meant."""
    kind, names, is_known, unseen = reference.kind, list[str](), False, ""
    for path in kind.paths:
        try:
            listed = await api.list(f"{path}/namespaces/{quote(namespace)}/{kind.plural}")
        except ApiError as error:
            is_known |= error.status != 404
            unseen = failures.missing_right(error.message) or unseen
        else:
            is_known = True
            names += sorted(item["metadata"]["name"] for item in listed if not is_agent(item))
    where = f"in namespace {namespace}"
    if not is_known:
        return NoTarget(
            f"this cluster has no {kind.plural} ({kind.paths[0].removeprefix('/apis/')}); name another kind of target"
        )
    if names:
        hint = _suggest(reference.name, names) or f" (there is {_enumerate(names)})"
        return NoTarget(f"there is no {reference} {where}{hint}; `kubectl -n {namespace} get {kind.plural}` lists them")
    unknown, hint = await _explain_namespace(api, namespace)
    others = f"(to see others: {unseen})" if unseen else f"and no other {kind.name} to be seen there"
    return unknown or NoTarget(
        f"there is no {reference} {where}{hint}, {others}; choose the namespace with -n, or the cluster with --context"
    )


async def _explain_unready(api: Api, reference: Reference, namespace: str, pods: Sequence[Object]) -> NoTarget:
    """Why no pod is ready."""
    if not pods and (unknown := (await _explain_namespace(api, namespace))[0]) is not None:
        return unknown
    spec = (await _get(api, reference, namespace))["spec"] if reference.kind.paths else {}
    return NoTarget(say_none_ready(reference, namespace, spec, pods))


async def _explain_namespace(api: Api, namespace: str) -> tuple[NoTarget | None, str]:
    """That there is no such namespace, if so; or else, in parentheses, that this user may not know."""
    try:
        await api.get(f"/api/v1/namespaces/{quote(namespace)}")
    except ApiError as error:
        if error.status == 404:
            return NoTarget(f"there is no namespace {namespace}; choose one with -n"), ""
        if error.status == 403:
            return None, " (or there is no such namespace: to know takes the right to get namespaces)"
    return None, ""
