"""`mirror doctor`: what will work, and what will not and why, on this machine and in the cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Literal

import click
import trio

from mirror.cli import machine
from mirror.cli.cluster import agents, failures
from mirror.cli.cluster.api import Api, ApiError
from mirror.cli.cluster.rights import RIGHTS, RIGHTS_EPHEMERAL, Right, missing_verbs
from mirror.cli.cluster.targets import Place
from mirror.cli.commands.cluster import Where
from mirror.cli.errors import EXIT_FAILED, MirrorError
from mirror.cli.inject.attachment import InjectFailed
from mirror.cli.inject.recipes import probe
from mirror.cli.settings import AgentSettings
from mirror.protocol.features import FEATURES

_HOOKED_WITHIN_S = 60
_LEVEL = "pod-security.kubernetes.io/enforce"
_ELSEWHERE = (
    "put them into another namespace with --agent-namespace (mirror doctor -n looks at that one), or do with "
    "-t targetless, whose agent needs no privileges"
)

Finding = Literal["ok", "less", "no", "info"]
"""It works; something less works; targets of the cluster cannot be mirrored; nothing depends on it."""


def run(where: Where) -> int:
    """Looks at everything and says what it found.

    Returns:
        The exit status: 0 if targets of the cluster can be mirrored.
    """
    is_well = look_at_hooks()
    look_at_frida()
    look_at_kernel()
    try:
        return 0 if trio.run(_look_at_cluster, where) and is_well else EXIT_FAILED
    except MirrorError as error:
        _say("no", error.sentence)
        return EXIT_FAILED


def _say(finding: Finding, sentence: str) -> None:
    click.echo(f"{finding:5}{sentence}")


# --- this machine -----------------------------------------------------------------------------------------


def look_at_hooks() -> bool:
    """Hooks a program, with this process as its target: that needs everything but a cluster."""
    command = [sys.executable, "-m", "mirror.cli", "exec", "-t", f"pid/{os.getpid()}", "--no-incoming", "--", "true"]
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_HOOKED_WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        _say("no", f"a program that was to be hooked did not end within {_HOOKED_WITHIN_S} s; please report that")
        return False
    said = " ".join(result.stderr.split()).removeprefix("mirror: ")
    if result.returncode or said:
        _say("less" if result.returncode == 0 else "no", f"hooking a program of this machine: {said or 'it failed'}")
        return result.returncode == 0
    _say("ok", "programs of this machine can be hooked")
    return True


def look_at_frida() -> None:
    """Whether Frida may attach: where a recipe is known already, hooking a program does not tell."""
    try:
        probe()
    except InjectFailed as error:
        _say("less", f"{error}; till then only programs whose C library was met before can be hooked")
    else:
        _say("ok", "Frida can attach to programs, so that any C library of this machine can be learnt")


def look_at_kernel() -> None:
    """What nothing needs, and users ask about all the same."""
    why = machine.why_no_fuse()
    _say("info", f"FUSE {f'cannot be used ({why})' if why else 'can be used'}; mirror does without")
    why = machine.why_no_user_notification()
    _say(
        "info",
        "statically linked programs and Go's are not hooked; seccomp user notification, by which such could be "
        f"followed, {f'is not available ({why})' if why else 'is available'}",
    )


# --- the cluster ------------------------------------------------------------------------------------------


async def _look_at_cluster(where: Where) -> bool:
    """Whether targets can be mirrored there. Raises MirrorError."""
    async with where.open() as (api, namespace):
        _say("ok", f"the kubeconfig's context {api.access.context or '(none)'} names {api.access.server}")
        try:
            version = await api.get("/version")
            _say("ok", f"it is Kubernetes {version.get('gitVersion', '?')}, and accepts the credentials")
            checks = [await look_at_right(api, right, namespace) for right in (*RIGHTS, *RIGHTS_EPHEMERAL)]
        except ApiError as error:
            raise MirrorError(failures.explain(error, "ask the cluster", namespace)) from None
        if all(checks):
            _say("ok", f"every right that is needed is there in namespace {namespace}")
        return await look_at_admission(api, namespace) and all(checks)


async def look_at_right(api: Api, right: Right, namespace: str) -> bool:
    """Whether targets can be mirrored with what there is of a right. Raises ApiError, MirrorError."""
    missing = await missing_verbs(api, right, namespace)
    if not missing:
        return True
    has_enough = bool(right.lacking_some) and len(missing) < len(right.verbs)
    is_lost = right.is_needed and not has_enough
    lacking = right.lacking_some if has_enough else right.lacking
    verbs = ", ".join(missing)
    _say(
        "no" if is_lost else "less",
        f"no right to {verbs} {right} in namespace {namespace}: {lacking} (see mirror rbac)",
    )
    return not is_lost


async def look_at_admission(api: Api, namespace: str) -> bool:
    """Whether the cluster lets an agent's pod into a namespace, as far as this user may know it.

    Raises:
        MirrorError: There is no such namespace, or the API server does not answer.
    """
    level, unseen = await _pod_security(api, namespace)
    if level not in ("", "privileged"):
        _say(
            "no",
            f"PodSecurity {level} of namespace {namespace} refuses agents beside pods (hostPID, added capabilities); "
            f"{_ELSEWHERE}",
        )
        return False
    if level:
        _say("ok", f"PodSecurity does not refuse agents in namespace {namespace}")
    try:
        await api.create(f"/api/v1/namespaces/{namespace}/pods", _sample(namespace), {"dryRun": "All"})
    except ApiError as error:
        if failures.is_refusal(error):
            _say("no", failures.explain_refused_pod(error.message, namespace))
            return False
        why = failures.say_refused(error)
        why += f"; nor can its label be seen: {unseen}" if unseen else ""
        what = "quotas or webhooks refuse" if level else "PodSecurity, quotas or webhooks refuse"
        _say(
            "info" if level else "less",
            f"whether {what} agents in namespace {namespace} shows when one is started, as none can be tried ({why})",
        )
    else:
        _say("ok", f"the cluster admits agents in namespace {namespace}")
    return True


async def _pod_security(api: Api, namespace: str) -> tuple[str, str]:
    """The level that a namespace's label has the cluster enforce; empty if that may not be seen, and why not."""
    try:
        labels = (await api.get(f"/api/v1/namespaces/{namespace}"))["metadata"].get("labels") or {}
    except ApiError as error:
        if error.status == 404:
            raise MirrorError(f"there is no namespace {namespace}; choose one with -n") from None
        return "", failures.say_refused(error)
    return str(labels.get(_LEVEL, "privileged")), ""


def _sample(namespace: str) -> dict[str, object]:
    """The pod of an agent that does all, beside some pod."""
    place = Place(namespace, "some", "0", "some", "some", "0")
    job = agents.manifest(agents.Wish(place, namespace, FEATURES, AgentSettings(), agents.default_image()))
    template = job["spec"]["template"]
    metadata = {**template["metadata"], "generateName": "mirror-agent-"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
