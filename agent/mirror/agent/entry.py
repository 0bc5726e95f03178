"""Entering the target: its namespaces, root directory, ids and capabilities, in the order that permits each.

What may not be entered is a capability less, not an error: which one is said with a sentence. (`worker_process` must
not answer requests of a missing capability: it would do so from the agent's own surroundings.)

Once in a foreign root, nothing may be loaded from it: modules are all imported beforehand, and looking for more is
switched off. What there is to enter was found out by `target`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Collection, Mapping
from typing import Final

from mirror.agent import environment, libc, resolver
from mirror.agent.credentials import (
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_NET_BIND_SERVICE,
    reduce_capabilities,
    take_ids,
)
from mirror.agent.target import Target, read_credentials
from mirror.protocol.features import FEATURES
from mirror.protocol.messages import Message

_HOST_NAME_BYTES: Final = 64
"""HOST_NAME_MAX, limits.h."""
_NETWORK: Final = frozenset({"names", "outgoing"})
_VARIABLES: Final = frozenset({"environment", "names"})
_AS_THE_TARGET: Final = frozenset({"files", "names", "outgoing"})
"""The features for which the worker enters the network, reads the environment, and takes the target's ids."""


class Ready(Message, frozen=True):
    """The worker's first message: what it found when it entered the target."""

    reasons: dict[str, str]
    """For each capability of `Welcome` that is out of reach, one sentence with a remedy."""
    notices: tuple[str, ...] = ()
    """What works less well than it should, one sentence each."""
    host_name: bytes = b""
    """The target's; empty if its uts namespace could not be entered."""
    domain_name: bytes = b""


def enter(target: Target, features: Collection[str] = FEATURES) -> Ready:
    """Makes the calling process, which has one thread, one of the target's as far as wanted and permitted.

    Args:
        target: What to enter.
        features: What is wanted of it. The others are reported as missing, and what only they need is left alone.

    Raises:
        TargetError: Its user namespace may not be entered.
        OSError: The target has ended.
    """
    notices: list[str] = []
    reasons: dict[str, str] = {}
    has_ids = target.outer_credentials.has_own_ids or not _AS_THE_TARGET.intersection(features)
    if target.user_fd is not None:
        if not has_ids:
            # Ids that have no number inside can be taken from outside only, those of a rootless container from
            # inside only.
            with contextlib.suppress(OSError):
                has_ids = take_ids(target.outer_credentials) is None
        target.enter_user_namespace()
    variables: dict[bytes, bytes] = {}
    if _VARIABLES.intersection(features):
        with contextlib.suppress(OSError):
            found = environment.read_environment(target)
            variables = dict(variable.split(b"=", 1) for variable in found.variables)
            resolver.prepare(variables)
            if "environment" in features and not found.is_whole:
                notices.append(environment.OVERWRITTEN)
    credentials = read_credentials(target.pid)
    host_and_domain_name = _enter_host_name(target, variables)
    if _NETWORK.intersection(features):
        _enter_network(target, reasons)
    _enter_root(target, reasons)
    if not has_ids:
        try:
            notices.append(take_ids(credentials) or "")
        except OSError as error:
            uid, gid = credentials.uids[1], credentials.gids[1]
            for capability in ("files", "names", "outgoing"):
                reasons[capability] = (
                    f"uid {uid} and gid {gid} of the target's process may not be taken ({error.strerror});"
                    " run mirror as that user or as root (CAP_SETUID, CAP_SETGID)"
                )
    lacking = reduce_capabilities(credentials)
    if "files" in features and lacking & (CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH):
        notices.append(
            "the target's process has capabilities that mirror's agent lacks, so some files that it may read are"
            " refused; run mirror as root to have them (CAP_DAC_OVERRIDE)"
        )
    if "outgoing" in features and lacking & CAP_NET_BIND_SERVICE:
        notices.append(
            "the target's process may connect from ports below 1024, which mirror's agent may not; run mirror as root"
            " to have that (CAP_NET_BIND_SERVICE)"
        )
    reasons.update((feature, _unwanted(feature)) for feature in FEATURES if feature not in features)
    return Ready(reasons, tuple(notice for notice in notices if notice), *host_and_domain_name)


def _unwanted(feature: str) -> str:
    """What a client is told that wants something for which the agent was not started."""
    return f"this agent was started without {feature}; start one whose --features include it"


def _enter_host_name(target: Target, variables: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """The target's host and domain name; empty what may not be had."""
    try:
        if target.host_name_fd is not None:
            libc.setns(target.host_name_fd, libc.CLONE_NEWUTS)
        return libc.host_and_domain_name()
    except OSError:
        # It needs what the network namespace needs, where it is reported. Container runtimes also put the host name
        # into the environment.
        name = variables.get(b"HOSTNAME", b"")
        return name if len(name) <= _HOST_NAME_BYTES else b"", b""


def _enter_network(target: Target, reasons: dict[str, str]) -> None:
    if target.network_fd is None:
        return
    try:
        libc.setns(target.network_fd, libc.CLONE_NEWNET)
    except OSError as error:
        for capability in ("names", "outgoing"):
            reasons[capability] = (
                f"the target's network namespace may not be entered ({error.strerror});"
                " run mirror as root (CAP_SYS_ADMIN)"
            )


def _enter_root(target: Target, reasons: dict[str, str]) -> None:
    try:
        if target.root_fd is not None:
            os.fchdir(target.root_fd)
            os.chroot(".")
            # From here on an import would run code of the target.
            sys.meta_path.clear()
            sys.path.clear()
        os.chdir("/")
    except OSError as error:
        for capability in ("files", "names"):
            reasons[capability] = (
                f"the target's root directory may not be entered ({error.strerror});"
                " run mirror as root (CAP_SYS_CHROOT)"
            )
