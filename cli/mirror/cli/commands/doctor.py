"""`mirror doctor`: what will work, and what will not and why, on this machine and in the cluster."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import trio

from mirror.cli.cluster import failures
from mirror.cli.cluster.api import Api, ApiError
from mirror.cli.cluster.rights import RIGHTS, RIGHTS_EPHEMERAL, Right, missing_verbs
from mirror.cli.commands.cluster import Where
from mirror.cli.errors import EXIT_FAILED, MirrorError

_HOOKED_WITHIN_S = 60
_LEVEL = "pod-security.kubernetes.io/enforce"


def run(where: Where) -> int:
    """Looks at everything and says what it found.

    Returns:
        The exit status: 0 if targets of the cluster can be mirrored.
    """
    is_well = _look_at_this_machine()
    try:
        return 0 if trio.run(_look_at_cluster, where) and is_well else EXIT_FAILED
    except MirrorError as error:
        _say(False, error.sentence)
        return EXIT_FAILED


def _say(is_well: bool | None, sentence: str) -> None:
    """One finding; None: something less works."""
    click.echo(f"{ {True: 'ok', None: 'less', False: 'no'}[is_well]:5}{sentence}")


def _look_at_this_machine() -> bool:
    """Hooks a program, with this process as its target: that needs everything but a cluster."""
    command = [sys.executable, "-m", "mirror.cli", "exec", "-t", f"pid/{os.getpid()}", "--no-incoming", "--", "true"]
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_HOOKED_WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        _say(False, f"a program that was to be hooked did not end within {_HOOKED_WITHIN_S} s; please report that")
        return False
    said = " ".join(result.stderr.split()).removeprefix("mirror: ")
    if result.returncode or said:
        _say(None if result.returncode == 0 else False, f"hooking a program of this machine: {said or 'it failed'}")
        return result.returncode == 0
    _say(True, "programs of this machine can be hooked")
    return True


async def _look_at_cluster(where: Where) -> bool:
    """Whether targets can be mirrored there. Raises MirrorError."""
    async with where.open() as (api, namespace):
        _say(True, f"the kubeconfig's context {api.access.context or '(none)'} names {api.access.server}")
        try:
            version = await api.get("/version")
            _say(True, f"it is Kubernetes {version.get('gitVersion', '?')}, and accepts the credentials")
            checks = [await _look_at_right(api, right, namespace) for right in (*RIGHTS, *RIGHTS_EPHEMERAL)]
        except ApiError as error:
            raise MirrorError(failures.explain(error, "ask the cluster", namespace)) from None
        if all(checks):
            _say(True, f"every right that is needed is there in namespace {namespace}")
        return await _look_at_admission(api, namespace) and all(checks)


async def _look_at_right(api: Api, right: Right, namespace: str) -> bool:
    missing = await missing_verbs(api, right, namespace)
    if missing:
        verbs = ", ".join(missing)
        _say(
            False if right.is_needed else None,
            f"no right to {verbs} {right} in namespace {namespace}: {right.lacking} (see mirror rbac)",
        )
    return not missing or not right.is_needed


async def _look_at_admission(api: Api, namespace: str) -> bool:
    """What the namespace's PodSecurity level refuses, as far as this user may see it."""
    try:
        labels = (await api.get(f"/api/v1/namespaces/{namespace}"))["metadata"].get("labels") or {}
    except ApiError as error:
        if error.status == 404:
            raise MirrorError(f"there is no namespace {namespace}; choose one with -n") from None
        _say(None, f"whether PodSecurity refuses agents in namespace {namespace} may not be seen")
        return True
    level = labels.get(_LEVEL, "privileged")
    if level == "privileged":
        _say(True, f"PodSecurity does not refuse agents in namespace {namespace}")
        return True
    _say(
        False,
        f"PodSecurity {level} of namespace {namespace} refuses agents beside pods (hostPID, capabilities); put them "
        f"into another namespace with --agent-namespace",
    )
    return False
