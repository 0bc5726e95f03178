"""An agent as an ephemeral container of the target's pod, and how a session comes to have one.

Such a container is never removed from its pod, nor started again: it is named by the same hash as the Job would be, and
by a number, which counts those that have ended.

    look at the pod ── the last of that name runs ───────────────────────────▶ join
        └─ none, or it has ended ── ask for the next ── watch the pod ───────▶ begin

A session that has lost its agent asks again and again. So that this does not fill the pod there is no other one beside
one that cannot start (the node goes on trying that), and none just after one that has failed.

Two versions of the API are there. From Kubernetes 1.22 on the subresource is the pod itself, and the container has
privileges as any other. Before (and off by default) it is a list of its own, and a `securityContext` is forbidden: what
such an agent can do is what the target's own user may.
"""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Mapping
from typing import Any

import trio

from mirror.cli.cluster import agents, failures
from mirror.cli.cluster.agents import Agent, Tell, Wish
from mirror.cli.cluster.api import Api, ApiError, Object
from mirror.cli.cluster.failures import Ended, Refused, Running, Waiting
from mirror.cli.cluster.targets import Place
from mirror.cli.errors import TargetError

_AFTER_A_FAILURE_S = 60.0
"""How long there is no other one like it."""
_OLD_KIND = "EphemeralContainers"
"""Of the subresource before 1.22. It answers a patch of a pod with itself, unchanged."""


def manifest(wish: Wish, name: str, *, is_privileged: bool = True) -> dict[str, Any]:
    """The container.

    Args:
        wish: Which agent.
        name: Its name.
        is_privileged: Whether the cluster lets it have privileges.
    """
    assert wish.place is not None
    return {
        **agents.container(wish, name),
        "targetContainerName": wish.place.container,
        **({"securityContext": agents.security_context(wish)} if is_privileged else {}),
    }


def names_in(pod: Object, wish: Wish) -> list[str]:
    """The agents as wished that a pod has or has had, in the order of their beginning."""
    base = f"{agents.name_of(wish)}-"
    names = [container["name"] for container in pod["spec"].get("ephemeralContainers") or ()]
    return sorted((name for name in names if name.startswith(base)), key=lambda name: int(name.removeprefix(base)))


async def start(api: Api, wish: Wish, tell: Tell) -> Agent:
    """An agent as wished whose container runs: one that is there already, or a new one.

    Args:
        api: The cluster.
        wish: Which agent; it has a place.
        tell: Called with each step.

    Raises:
        MirrorError: There will be none; the sentence says why.
    """
    place = wish.place
    assert place is not None
    try:
        return await agents.until_joined(lambda: _start_once(api, wish, place, tell))
    except ApiError as error:
        raise TargetError(_explain(error, place)) from None


async def _start_once(api: Api, wish: Wish, place: Place, tell: Tell) -> Agent | None:
    """The same; None: it ended meanwhile."""
    pod = await api.get(_path(place))
    _check_same(pod, place)
    names = names_in(pod, wish)
    is_begun = not names or _is_over(pod, names[-1])
    if is_begun:
        if pod["metadata"].get("deletionTimestamp"):
            raise TargetError(f"pod {place.pod} is being removed; try again")
        if names:
            _check_last(pod, names[-1])
        name = f"{agents.name_of(wish)}-{len(names) + 1}"
        pod = await _ask_for(api, wish, place, name)
        await tell(f"ephemeral container {name} is asked for")
    else:
        name = names[-1]
        await tell(f"joining the agent in ephemeral container {name}")
    if not await _runs(api, wish, place, name, tell):
        return None
    agent = agents.Agent(
        place.namespace,
        job="",
        job_uid="",
        pod=place.pod,
        is_begun=is_begun,
        container=name,
        is_guarded=True,
        is_direct=wish.settings.transport == "direct",
    )
    if "incoming" in wish.features and not _container(pod, name).get("securityContext"):
        return dataclasses.replace(agent, reasons={"incoming": await _say_unprivileged(api)})
    return agent


async def _ask_for(api: Api, wish: Wish, place: Place, name: str) -> Object:
    """Puts the container into the pod: the pod as it is then, as far as it is looked at here."""
    path = f"{_path(place)}/ephemeralcontainers"
    container = manifest(wish, name)
    answer = await api.patch(path, {"spec": {"ephemeralContainers": [container]}}, kind="strategic-merge")
    if answer.get("kind") != _OLD_KIND:
        return answer
    if wish.needs_incoming:
        raise TargetError(await _say_unprivileged(api))
    plain = {"ephemeralContainers": [manifest(wish, name, is_privileged=False)]}
    answer = await api.patch(path, plain, kind="strategic-merge")
    return {"metadata": {}, "spec": {"ephemeralContainers": answer.get("ephemeralContainers")}}


async def _runs(api: Api, wish: Wish, place: Place, name: str, tell: Tell) -> bool:
    """Waits until the container runs; false: it has ended.

    Raises:
        TargetError: It will not run.
        ApiError: This user may not watch the pod.
        MirrorError: The API server does not answer.
    """
    timeout_s = wish.settings.startup_timeout_s
    waits_for = ""
    with trio.move_on_after(timeout_s):
        folder, _, pod_name = _path(place).rpartition("/")
        async with api.watch(folder, {"fieldSelector": f"metadata.name={pod_name}"}) as events:
            async for kind, pod in events:
                if kind == "DELETED":
                    raise TargetError(f"pod {place.pod} has been removed meanwhile; try again")
                _check_same(pod, place)
                match _judge(pod, name):
                    case Running():
                        return True
                    case Ended():
                        return False
                    case Refused(sentence):
                        raise TargetError(sentence)
                    case Waiting(what):
                        if what != waits_for:
                            waits_for = what
                            await tell(f"waiting for {what}")
    raise TargetError(
        f"the agent did not start within {timeout_s:.0f} s (waited for {waits_for or 'the pod'}); look at `kubectl -n "
        f"{place.namespace} describe pod {place.pod}`, or give it longer with --agent-startup-timeout"
    )


def _path(place: Place) -> str:
    return f"/api/v1/namespaces/{place.namespace}/pods/{place.pod}"


def _check_same(pod: Object, place: Place) -> None:
    if pod["metadata"].get("uid") != place.pod_uid:
        raise TargetError(f"pod {place.pod} has been replaced by another of its name meanwhile; try again")


def _is_over(pod: Object, name: str) -> bool:
    """Whether nothing is to be expected of one any more. One that cannot start the node tries again and again."""
    return isinstance(_judge(pod, name), Ended) or bool(_terminated(pod, name))


def _check_last(pod: Object, name: str) -> None:
    """Looks at the newest one, which is over, before there is another.

    Raises:
        TargetError: It has failed a moment ago, and was not killed, as it is when its target's container is restarted.
    """
    last, terminated = _judge(pod, name), _terminated(pod, name)
    if isinstance(last, Refused) and not failures.is_killed(terminated) and _is_younger(terminated, _AFTER_A_FAILURE_S):
        raise TargetError(f"{last.sentence} (there is no other agent within {_AFTER_A_FAILURE_S:.0f} s of that)")


def _is_younger(terminated: Mapping[str, Any], seconds: float) -> bool:
    """Whether a container has ended no longer ago than that, by this machine's clock."""
    if not terminated.get("finishedAt"):
        return False
    ended_at = datetime.datetime.fromisoformat(terminated["finishedAt"]).timestamp()
    # If the node's clock is far ahead that is as if it had been long ago: too many agents are better than none.
    return abs(time.time() - ended_at) < seconds


def _terminated(pod: Object, name: str) -> Mapping[str, Any]:
    """How a container has ended; empty if it has not."""
    statuses = pod.get("status", {}).get("ephemeralContainerStatuses") or ()
    states = [status.get("state") or {} for status in statuses if status["name"] == name]
    return (states[0].get("terminated") if states else None) or {}


def _judge(pod: Object, name: str) -> failures.Verdict:
    return failures.judge(failures.view_of_ephemeral(pod, name))


def _container(pod: Object, name: str) -> Mapping[str, Any]:
    containers = pod["spec"].get("ephemeralContainers") or ()
    return next((container for container in containers if container["name"] == name), {})


async def _say_unprivileged(api: Api) -> str:
    """Why there is no incoming traffic. Raises ApiError."""
    version = (await api.get("/version")).get("gitVersion", "of this version")
    return (
        f"Kubernetes {version} gives ephemeral containers no privileges, which incoming traffic needs; leave out "
        "--ephemeral, so that the agent has a pod of its own"
    )


def _explain(error: ApiError, place: Place) -> str:
    if failures.is_refusal(error):
        return failures.explain_refused_pod(error.message, place.namespace, is_ephemeral=True)
    if error.status == 404 and not error.details.get("name"):
        return (
            "this cluster has no ephemeral containers (they are there from Kubernetes 1.23 on); leave out --ephemeral, "
            "so that the agent has a pod of its own"
        )
    return failures.explain(error, "put an ephemeral container into the target's pod", place.namespace)
