"""What there is in a cluster: what may be a target, and which agents run. Pure are `rows_of` and `row_of_agent`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import trio

from mirror.cli.cluster import agents, failures
from mirror.cli.cluster.api import Api, ApiError, Object
from mirror.cli.cluster.reference import KINDS, Kind
from mirror.cli.cluster.targets import is_agent, is_ready
from mirror.cli.errors import MirrorError, TargetError

LISTED = ("deployment", "rollout", "statefulset", "daemonset", "replicaset", "cronjob", "job", "service", "pod")
"""The kinds, in the order in which they are shown."""
_EPHEMERAL = re.compile(r"mirror-agent-[0-9a-f]{16}-\d+")
"""What ephemeral containers are called (`ephemeral`)."""


@dataclasses.dataclass(frozen=True)
class TargetRow:
    """Something that may be a target.

    Attributes:
        target: As `-t` takes it.
        ready: How many of its pods are ready.
        pods: How many it has.
        containers: Of its pods; empty where it has none.
    """

    target: str
    ready: int
    pods: int
    containers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class AgentRow:
    """An agent, or what is left of one.

    Attributes:
        namespace: Where it is.
        job: The name of its Job, or of its container, if it is an ephemeral one.
        uid: The Job's; empty: there is none.
        target: For whom, `NAMESPACE/POD/CONTAINER`.
        features: What it does.
        state: `starting`, `running`, `ended` or `going`.
        began: When, as the cluster writes it.
    """

    namespace: str
    job: str
    uid: str
    target: str
    features: tuple[str, ...]
    state: str
    began: str


# --- targets ----------------------------------------------------------------------------------------------


def rows_of(things: Mapping[str, Sequence[Object]]) -> list[TargetRow]:
    """The targets among the objects of a namespace.

    What another object of the list makes is left out: the ReplicaSets of Deployments, the jobs of cronjobs; their owner
    is the better target. So are mirror's own agents.

    Args:
        things: The objects of each kind, by the kind's name.
    """
    own = [pod for pod in things.get("pod", ()) if not is_agent(pod)]
    pods = [pod for pod in own if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")]
    rows = []
    for kind in LISTED:
        for thing in sorted(things.get(kind, ()), key=lambda thing: str(thing["metadata"]["name"])):
            is_made = bool(thing["metadata"].get("ownerReferences"))
            if is_agent(thing) or (is_made and kind in ("replicaset", "job")):
                continue
            members = _members(kind, thing, pods, things)
            if members is None or (kind == "pod" and thing not in pods):
                continue
            containers = dict.fromkeys(each["name"] for pod in members for each in pod["spec"]["containers"])
            target = f"{kind}/{thing['metadata']['name']}"
            rows.append(TargetRow(target, sum(map(is_ready, members)), len(members), tuple(containers)))
    return rows


def _members(
    kind: str, thing: Object, pods: Sequence[Object], things: Mapping[str, Sequence[Object]]
) -> list[Object] | None:
    """The pods of an object; None: it can have none."""
    if kind == "pod":
        return [thing]
    if kind == "cronjob":
        uid = thing["metadata"]["uid"]
        owned = [job for job in things.get("job", ()) if uid in _owners(job)]
        return [pod for job in owned for pod in pods if selects(job["spec"]["selector"], pod)]
    selector = thing["spec"].get("selector")
    if kind == "service":
        selector = {"matchLabels": selector} if selector else None
    if kind == "rollout" and not selector:
        borrowed = (thing["spec"].get("workloadRef") or {}).get("name")
        workloads = [each for each in things.get("deployment", ()) if each["metadata"]["name"] == borrowed]
        return _members("deployment", workloads[0], pods, things) if workloads else []
    return None if not selector else [pod for pod in pods if selects(selector, pod)]


def _owners(thing: Object) -> list[str]:
    return [owner["uid"] for owner in thing["metadata"].get("ownerReferences") or ()]


def selects(selector: Object, pod: Object) -> bool:
    """Whether a label selector takes a pod."""
    labels = pod["metadata"].get("labels") or {}
    if not (selector.get("matchLabels") or {}).items() <= labels.items():
        return False
    for expression in selector.get("matchExpressions") or ():
        value, values = labels.get(expression["key"]), expression.get("values") or ()
        fits = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[expression["operator"]]
        if not fits:
            return False
    return True


async def list_targets(api: Api, namespace: str) -> tuple[list[TargetRow], list[str]]:
    """What may be a target in a namespace, and the plurals of the kinds that this user may not list.

    Raises:
        MirrorError: The API server does not answer.
    """
    found: dict[str, list[Object]] = {}
    refused: list[str] = []

    async def ask(kind: Kind) -> None:
        for path in kind.paths:
            try:
                found[kind.name] = await api.list(f"{path}/namespaces/{quote(namespace)}/{kind.plural}")
            except ApiError as error:
                if error.status == 403:
                    refused.append(kind.plural)
                if error.status not in (403, 404):
                    raise TargetError(failures.explain(error, f"show {kind.plural}", namespace)) from None
            else:
                return

    await _all(ask, [kind for kind in KINDS if kind.paths])
    return rows_of(found), sorted({*refused})


async def _all(ask: Any, kinds: Sequence[Kind]) -> None:
    """Asks side by side, until the first error, which comes out as it is, not in a group."""
    failed: list[Exception] = []

    async def attempt(kind: Kind) -> None:
        try:
            await ask(kind)
        except Exception as error:
            failed.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for kind in kinds:
            nursery.start_soon(attempt, kind)
    if failed:
        raise failed[0]


# --- agents -----------------------------------------------------------------------------------------------


def row_of_agent(job: Object) -> AgentRow:
    """What an agent's Job says of it."""
    metadata, status = job["metadata"], job.get("status") or {}
    about = metadata.get("annotations") or {}
    names = ("target-namespace", "target-pod", "target-container")
    state = "running" if status.get("active") else "starting"
    if status.get("succeeded") or status.get("failed"):
        state = "ended"
    if metadata.get("deletionTimestamp"):
        state = "going"
    return AgentRow(
        namespace=metadata["namespace"],
        job=metadata["name"],
        uid=metadata["uid"],
        target="/".join(about.get(f"mirror-agent/{name}", "?") for name in names),
        features=tuple(filter(None, about.get("mirror-agent/features", "").split(","))),
        state=state,
        began=str(metadata.get("creationTimestamp") or ""),
    )


def rows_of_ephemeral(pod: Object) -> list[AgentRow]:
    """The agents that are ephemeral containers of a pod, but for those that have ended, which stay in it for ever."""
    rows = []
    for container in pod["spec"].get("ephemeralContainers") or ():
        name = container["name"]
        if not _EPHEMERAL.fullmatch(name):
            continue
        verdict = failures.judge(failures.view_of_ephemeral(pod, name))
        if isinstance(verdict, failures.Ended | failures.Refused):
            continue
        metadata, arguments = pod["metadata"], container.get("args") or []
        features = arguments[arguments.index("--features") + 1] if "--features" in arguments else ""
        statuses = pod.get("status", {}).get("ephemeralContainerStatuses") or ()
        states = [status.get("state") or {} for status in statuses if status["name"] == name]
        rows.append(
            AgentRow(
                namespace=metadata["namespace"],
                job=name,
                uid="",
                target="/".join((metadata["namespace"], metadata["name"], container.get("targetContainerName") or "?")),
                features=tuple(filter(None, features.split(","))),
                state="running" if isinstance(verdict, failures.Running) else "starting",
                began=next((state["running"].get("startedAt") or "" for state in states if "running" in state), ""),
            )
        )
    return rows


async def list_agents(api: Api, namespace: str) -> tuple[list[AgentRow], str]:
    """The agents in a namespace, or in all if that is empty; and why those in pods of targets are not among them.

    Raises:
        ApiError: This user may not list Jobs.
        MirrorError: The API server does not answer.
    """
    path = f"/apis/batch/v1/namespaces/{quote(namespace)}/jobs" if namespace else "/apis/batch/v1/jobs"
    rows = [*map(row_of_agent, await api.list(path, {"labelSelector": agents.SELECTOR}))]
    pods, unseen = list[Object](), ""
    try:
        pods = await api.list(f"/api/v1/namespaces/{quote(namespace)}/pods" if namespace else "/api/v1/pods")
    except ApiError as error:
        if error.status != 403:
            raise
        unseen = failures.say_refused(error)
    rows += [row for pod in pods for row in rows_of_ephemeral(pod)]
    return sorted(rows, key=lambda row: (row.namespace, row.began, row.job)), unseen


async def remove_agent(api: Api, row: AgentRow) -> None:
    """Removes an agent. Sessions that use it connect again, by a new agent if their users may have one.

    Raises:
        ApiError: This user may not. (That it is gone already is no error.)
        MirrorError: The API server does not answer, or it is an ephemeral container.
    """
    if not row.uid:
        raise MirrorError(
            f"{row.job} is an ephemeral container of pod {row.target.split('/')[1]}, which cannot be removed; it ends "
            "by itself after its last session"
        )
    try:
        await api.delete(f"/apis/batch/v1/namespaces/{quote(row.namespace)}/jobs/{quote(row.job)}", uid=row.uid)
    except ApiError as error:
        if error.status not in (404, 409):
            raise
