"""What the cluster said, as one sentence with a remedy. Pure.

Three voices say why something does not come to be: answers of the API server (`explain`), Events of the agent's Job,
whose pod an admission rule refused (`explain_refused_pod`), and the state of the agent's pod (`judge`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from mirror.cli.cluster.api import ApiError

LONGEST = 400
"""Characters of what others wrote that a sentence repeats."""

_RBAC = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\S+) resource "(?P<resource>[^"]*)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]*)"| at the cluster scope)?'
)
_QUOTA = re.compile(r"exceeded quota: (?P<quota>[^,\s]+), (?P<figures>requested: .*)")
_QUOTA_WANTS = re.compile(r"failed quota: (?P<quota>[^:\s]+): must specify (?P<resources>.*)")
_LIMITS = re.compile(r"(?:(?:minimum|maximum) \S+ usage|\S+ max limit to request ratio) per \S+ is .*")
"""plugin/pkg/admission/limitranger"""
_POD_SECURITY = re.compile(r'violates PodSecurity "(?P<level>[^":]+)(?::[^"]*)?": (?P<rules>.*)')
_WEBHOOK = re.compile(
    r'admission webhook "(?P<name>[^"]+)" denied the request(?: without explanation)?:? ?(?P<said>.*)'
)
_DENIED = re.compile(
    r'admission webhook "[^"]+" denied the request|ValidatingAdmissionPolicy \S+ (?:with binding \S+ )?denied request:'
)
_POLICY = re.compile(r"PodSecurityPolicy: unable to admit pod: (?P<rules>.*)")
_NOT_IN_THE_POD = (
    "leave out --ephemeral and put the agent into another namespace with --agent-namespace, or have the rule except it"
)
_ELSEWHERE = (
    "put the agent into another namespace with --agent-namespace, make it a container of the target's pod with "
    "--ephemeral, or ask for less (--no-incoming, --no-outgoing and --no-remote-dns)"
)


def in_one_line(text: str) -> str:
    """A text of somebody else's, fit for the middle of a sentence."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 4]} ..."


# --- answers of the API server ----------------------------------------------------------------------------


def explain(error: ApiError, doing: str, namespace: str, option: str = "-n") -> str:
    """Why the API server refused a request.

    Args:
        error: Its answer.
        doing: What mirror wanted, to follow "may not", as in `look for pod/web`.
        namespace: In which.
        option: By which the user chose that.
    """
    message = in_one_line(error.message)
    if is_refusal(error):
        return explain_refused_pod(error.message, namespace)
    if error.status == 401:
        said = message or "Unauthorized"
        return f"the cluster does not accept the kubeconfig's credentials ({said}); log in to it again"
    if error.status == 403:
        right = missing_right(error.message)
        return f"{right}, which mirror needs to {doing}; have an administrator of the cluster grant it"
    if error.status == 404 and re.search(r'namespaces "[^"]*" not found', error.message):
        return f"there is no namespace {namespace}; choose one with {option}"
    if error.status == 429:
        return f"mirror could not {doing}: the cluster has too much to do ({message}); try again later"
    if error.status in (400, 422):
        return f"the cluster refuses what mirror asked of it to {doing} ({message}); correct the setting that it names"
    if error.status >= 500:
        return f"mirror could not {doing}: the cluster failed ({message or error.reason}); try again"
    return f"mirror could not {doing}: the cluster says {message or error.reason} (status {error.status})"


def is_refusal(error: ApiError) -> bool:
    """Whether an admission rule refused it: those of webhooks and policies choose the answer's status.

    A webhook that names none gets 400 (ToStatusErr in apiserver/pkg/admission/plugin/webhook/errors), a
    ValidatingAdmissionPolicy 422.
    """
    return bool(_DENIED.search(error.message)) or (error.status == 403 and not missing_right(error.message))


def missing_right(message: str) -> str:
    """Which right a refusal names; empty if it is about something else."""
    found = _RBAC.search(message)
    if found is None:
        return ""
    group = found["group"]
    resource = found["resource"] + (f".{group}" if group else "")
    where = f" in namespace {found['namespace']}" if found["namespace"] else " in the whole cluster"
    return f"user {found['user']} lacks the right to {found['verb']} {resource}{where}"


def say_refused(error: ApiError) -> str:
    """Why something that mirror can do without was refused: the right that is missing, else the API server's words."""
    return missing_right(error.message) or in_one_line(error.message)


def explain_refused_pod(message: str, namespace: str, *, is_ephemeral: bool = False) -> str:
    """Why an admission rule of the cluster refused the agent's pod.

    Args:
        message: As a FailedCreate Event or the API server has it.
        namespace: Of the agent.
        is_ephemeral: It was to be an ephemeral container of its target's pod.
    """
    text = in_one_line(message)
    if is_ephemeral:
        found = _POD_SECURITY.search(text) or _WEBHOOK.search(text)
        rule = found[0] if found else text
        return (
            f"the cluster refuses the agent's ephemeral container in namespace {namespace} ({rule}); {_NOT_IN_THE_POD}"
        )
    if found := _QUOTA.search(text):
        return (
            f"the quota {found['quota']} of namespace {namespace} refuses the agent's pod ({found['figures']}); have "
            f"it raised, put the agent into another namespace with --agent-namespace, or into the target's pod with "
            f"--ephemeral"
        )
    if found := _QUOTA_WANTS.search(text):
        return (
            f"the quota {found['quota']} of namespace {namespace} wants the agent's pod to specify "
            f"{found['resources']}; do so under agent.resources in the configuration file"
        )
    if found := _LIMITS.search(text):
        return (
            f"a LimitRange of namespace {namespace} refuses the agent's pod ({found[0].rstrip(']')}); keep to it with "
            f"agent.resources in the configuration file, or put the agent into another namespace with --agent-namespace"
        )
    if found := _POD_SECURITY.search(text):
        return (
            f"PodSecurity {found['level']} of namespace {namespace} refuses the agent's pod ({found['rules']}); put it "
            f"into another namespace with --agent-namespace, as beside a pod it needs hostPID whatever else is left out"
        )
    if found := _WEBHOOK.search(text):
        said = found["said"] or "it does not say why"
        return f"the cluster's rule {found['name']} refuses the agent's pod ({said}); {_ELSEWHERE}"
    if found := _POLICY.search(text):
        return f"the PodSecurityPolicy of the cluster refuses the agent's pod ({found['rules']}); {_ELSEWHERE}"
    if found := re.search(r'serviceaccount "([^"]+)" not found', text):
        return (
            f"there is no service account {found[1]} in namespace {namespace}; correct agent.service_account, or have "
            f"it made"
        )
    if found := re.search(r"no PriorityClass with name (\S+) was found", text):
        return f"the cluster has no priority class {found[1]}; correct agent.priority_class in the configuration file"
    if right := missing_right(message):
        return f"the cluster may not make the agent's pod: {right}; have an administrator of the cluster grant it"
    return f"the cluster refuses the agent's pod in namespace {namespace} ({text}); {_ELSEWHERE}"


# --- the state of the agent's pod -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Waiting:
    """It is on its way."""

    what: str
    """What is being waited for, as progress."""
    complaint: str = ""
    """The sentence to fail with if it stays so for PATIENCE_S; empty: this is how it should go."""


@dataclasses.dataclass(frozen=True)
class Running:
    """Its container runs."""


@dataclasses.dataclass(frozen=True)
class Refused:
    """It will not run."""

    sentence: str


@dataclasses.dataclass(frozen=True)
class Ended:
    """It has run, and has nothing more to do."""


Verdict = Waiting | Running | Refused | Ended

PATIENCE_S = 3.0
"""What may still get better by itself (another pod is being removed for ours) is given so long."""

_IMAGE_REASONS = frozenset(
    {
        "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError",
        "RegistryUnavailable", "SignatureValidationFailed",
    }
)  # fmt: skip
"""pkg/kubelet/images/types.go"""
_START_REASONS = frozenset({"StartError", "ContainerCannotRun"})
"""A container that never ran, as containerd and CRI-O, or Docker, have it."""
_SIGNALLED = 128
"""Runtimes add the signal that ended a container to it."""
_PATIENT_REASONS = frozenset({"", "ContainerCreating", "PodInitializing"})


def judge(pod: Mapping[str, Any]) -> Verdict:
    """What becomes of the agent's pod, of which the first container is the agent (a mesh may have added others)."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    agent = spec["containers"][0] if len(spec["containers"]) == 1 else _agent_of(spec["containers"])
    state = next(
        (entry.get("state") or {} for entry in status.get("containerStatuses") or () if entry["name"] == agent["name"]),
        {},
    )
    terminated = state.get("terminated")
    if terminated is not None and terminated.get("exitCode") != 0:
        return Refused(_say_crash(terminated, agent))
    if status.get("phase") == "Failed":
        return Refused(_say_failed(status, spec.get("nodeName", "")))
    if terminated is not None or status.get("phase") == "Succeeded" or metadata.get("deletionTimestamp"):
        return Ended()
    if "running" in state:
        return Running()
    waiting = state.get("waiting") or {}
    reason = waiting.get("reason", "")
    if reason in _IMAGE_REASONS:
        return Refused(_say_image(agent, reason, waiting.get("message", "")))
    if reason not in _PATIENT_REASONS:
        text = in_one_line(waiting.get("message", ""))
        if reason == "Blocked" and status.get("reason"):  # the kubelet keeps it from starting, and says why elsewhere
            reason, text = status["reason"], in_one_line(status.get("message", ""))
        apart = "leave out --ephemeral, so that the agent has a pod of its own"
        remedy = _remedy_for_profile(f"{reason} {text}") or (apart if _is_ephemeral(agent) else _ELSEWHERE)
        return Refused(f"the agent's container cannot be made ({reason}{f': {text}' if text else ''}); {remedy}")
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _say_unscheduled(condition, pod)
    if not spec.get("nodeName"):
        return Waiting("the agent's pod to be scheduled")
    return Waiting(f"node {spec['nodeName']} to start the agent's container")


def view_of_ephemeral(pod: Mapping[str, Any], container: str) -> Mapping[str, Any]:
    """A pod as if one of its ephemeral containers were all of it, for `judge`."""
    spec, status = pod["spec"], pod.get("status", {})
    containers = [each for each in spec.get("ephemeralContainers") or () if each["name"] == container]
    return {
        "metadata": pod["metadata"],
        "spec": {"nodeName": spec.get("nodeName", ""), "containers": containers or [{"name": container, "image": ""}]},
        "status": {"phase": status.get("phase"), "containerStatuses": status.get("ephemeralContainerStatuses")},
    }


def _agent_of(containers: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((container for container in containers if container["name"] == "agent"), containers[0])


def is_killed(terminated: Mapping[str, Any]) -> bool:
    """Whether a signal ended a container, as its target's restart does."""
    return int(terminated.get("exitCode", 0)) > _SIGNALLED


def _remedy_for_profile(text: str) -> str:
    """What helps where a security profile keeps the agent's container from being made; empty: it is something else."""
    kinds = {"seccomp": "seccomp_profile", "AppArmor": "app_armor_profile", "SELinux": "se_linux_options"}
    field = next((field for word, field in kinds.items() if word.lower() in text.lower()), "")
    return f"correct agent.security_context.{field} in the configuration file" if field else ""


def _is_ephemeral(container: Mapping[str, Any]) -> bool:
    return "targetContainerName" in container


def _say_crash(terminated: Mapping[str, Any], agent: Mapping[str, Any]) -> str:
    """The agent's own last sentence, if it left one."""
    if terminated.get("reason") == "OOMKilled":
        if _is_ephemeral(agent):
            return (
                "the agent ran out of the memory that the target's pod may have; leave out --ephemeral, so that it has "
                "a pod of its own"
            )
        return "the agent ran out of memory; raise agent.resources.limits.memory in the configuration file"
    if terminated.get("reason") in _START_REASONS:
        text = in_one_line(terminated.get("message") or "")
        return f"the agent's container cannot be started ({text}); is its image an agent's?"
    if is_killed(terminated):
        # Its last line is of no account: it had no time to say anything.
        return (
            f"the agent was killed on its node (signal {terminated['exitCode'] - _SIGNALLED}); try again, and if that "
            f"happens each time, have an administrator look what kills it there"
        )
    lines = [line.strip() for line in (terminated.get("message") or "").split("\n") if line.strip()]
    if lines:
        return in_one_line(lines[-1])
    reason = terminated.get("reason", "Error")
    return (
        f"the agent ended at its start ({reason}, exit status {terminated.get('exitCode')}); is its image an agent's?"
    )


def _say_failed(status: Mapping[str, Any], node: str) -> str:
    reason, message = status.get("reason", ""), in_one_line(status.get("message", ""))
    if reason.startswith("OutOf"):
        what = reason.removeprefix("OutOf")
        return (
            f"node {node} has no {what} left for the agent's pod ({message}); lower agent.resources, give it an "
            f"agent.priority_class, or choose a pod on another node"
        )
    said = f"{reason}: {message}" if message and reason else reason or message or "no reason is given"
    remedy = _remedy_for_profile(said) or "try again, or choose a pod on another node"
    return f"node {node} gave up the agent's pod ({said}); {remedy}"


def _say_image(agent: Mapping[str, Any], reason: str, message: str) -> str:
    image, text = agent["image"], in_one_line(message)
    if reason == "ErrImageNeverPull":
        return (
            f"the agent's image {image} is not on the node and may not be pulled; bring it there, or set "
            f"agent.image_pull_policy to IfNotPresent"
        )
    if reason == "InvalidImageName":
        return f"{image!r} is no name of an image; correct --agent-image"
    said = f"{reason}: {text}" if text else reason
    login = "set agent.image_pull_secrets"
    if _is_ephemeral(agent):  # it is pulled with what the target's pod was made with
        login = "leave out --ephemeral and set agent.image_pull_secrets"
    return (
        f"the agent's image {image} cannot be pulled ({said}); push it where the cluster can pull it, name that with "
        f"--agent-image, and {login} if the registry wants a login"
    )


_REMEDIES = (
    (
        "Insufficient|Too many pods",
        "lower agent.resources, give it an agent.priority_class, or choose a pod on another node",
    ),
    ("taint", "let it be there with agent.tolerations, or choose a pod on another node"),
    ("node selector|affinity", "correct agent.node_selector"),
)
"""What helps when no node would take the agent's pod, by the first of the scheduler's words that is there."""


def _say_unscheduled(condition: Mapping[str, Any], pod: Mapping[str, Any]) -> Waiting:
    text = in_one_line(condition.get("message", "")) or condition.get("reason", "Unschedulable")
    if node := pod.get("status", {}).get("nominatedNodeName"):
        return Waiting(f"room for the agent's pod on node {node}")
    remedy = next((remedy for words, remedy in _REMEDIES if re.search(words, text)), "")
    if not remedy or ("node_selector" in remedy and not pod["spec"].get("nodeSelector")):
        remedy = "choose a pod on another node"
    return Waiting(
        f"the agent's pod to be scheduled ({text})", f"the agent's pod cannot be scheduled ({text}); {remedy}"
    )


def say_node_silent(node: Mapping[str, Any]) -> str:
    """The sentence about a node that starts nothing; empty if it is well as far as the cluster knows."""
    for condition in node.get("status", {}).get("conditions") or ():
        if condition["type"] == "Ready" and condition["status"] != "True":
            text = in_one_line(condition.get("message", "")) or condition.get("reason", "")
            name = node["metadata"]["name"]
            return f"node {name} is not ready ({text}), so the agent cannot run there; choose a pod on another node"
    return ""
