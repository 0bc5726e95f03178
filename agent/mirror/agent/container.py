"""The process of a container, found by the container's id: no container runtime is asked.

A runtime puts each container into a cgroup of its own, whose name has the container's id in it, and /proc/PID/cgroup
tells the cgroups of a process. An agent that sees its machine's processes (`hostPID`) thus finds the container's; from
which of them the container began is told by `choose`.

Where the agent is in a cgroup namespace of its own, the paths that it reads begin with `/../..`, and end alike.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

WAIT_S = 5.0
"""How long a container that is being started may take to have a process."""
_LOOK_EVERY_S = 0.05

_SCOPE = ".scope"
_MONITOR = "conmon-"
"""crio-conmon-ID.scope and libpod-conmon-ID.scope hold the process that watches a container."""
_ZOMBIE = "Z"


class ContainerNotFound(Exception):
    """No process of the container can be seen: a sentence with a remedy."""


@dataclass(frozen=True)
class Candidate:
    """A process of a container."""

    pid: int
    pids: tuple[int, ...]
    """Its numbers in all pid namespaces that it is in, from ours to its innermost one."""
    started: int
    """Clock ticks since the machine's start."""


def find(container_id: str, *, wait_s: float = WAIT_S, proc: str = "/proc") -> int:
    """The pid of a container's first process. Blocks for as long as there is none, up to `wait_s`.

    Args:
        container_id: As the runtime has it, without a scheme.
        wait_s: A container that is being started has no process yet.
        proc: Where proc(5) is mounted.

    Raises:
        ContainerNotFound: In vain.
    """
    end = time.monotonic() + wait_s
    while True:
        candidates = [
            candidate for pid in _pids(proc) if (candidate := _candidate(pid, container_id, proc)) is not None
        ]
        if candidates:
            return choose(candidates).pid
        if time.monotonic() >= end:
            raise ContainerNotFound(
                f"no process of container {container_id} can be seen: it must be running, on the machine that the agent"
                " is on, and the agent's pod must have hostPID"
            )
        time.sleep(_LOOK_EVERY_S)


def holds(container_id: str, pid: int, *, proc: str = "/proc") -> bool:
    """Whether a process is one of the container: to be asked again once a descriptor holds it."""
    return _candidate(pid, container_id, proc) is not None


def choose(candidates: Iterable[Candidate]) -> Candidate:
    """The process with which the container began.

    It has the number 1 in its pid namespace; what was started in the container later (kubectl exec) has not. Containers
    inside the container have a number 1 too, further inside. Without a pid namespace of its own the oldest is it.
    """
    return min(candidates, key=lambda one: (one.pids[-1] != 1, len(one.pids), one.started))


def is_inside(cgroup: str, container_id: str) -> bool:
    """Whether the text of a /proc/PID/cgroup is that of a process of the container, or of one inside that."""
    return any(
        _is_named(part, container_id) for line in cgroup.splitlines() for part in line.split(":", 2)[-1].split("/")
    )


def _is_named(part: str, container_id: str) -> bool:
    """Whether a part of a cgroup's path is the container's.

    containerd, docker: ID; with systemd cri-containerd-ID.scope, crio-ID.scope, docker-ID.scope, libpod-ID.scope;
    containerd that takes a systemd path for a plain one: kubepods-podUID.slice:cri-containerd:ID.
    """
    name = part.removesuffix(_SCOPE)
    if not name.endswith(container_id):
        return False
    before = name[: -len(container_id)]
    return not before or (before[-1] in "-:" and not before.endswith(_MONITOR))


def _pids(proc: str) -> list[int]:
    return [int(name) for name in os.listdir(proc) if name.isdecimal()]


def _candidate(pid: int, container_id: str, proc: str) -> Candidate | None:
    """A process as a candidate; None if it is not one of the container, or has ended."""
    with contextlib.suppress(OSError):
        with open(f"{proc}/{pid}/cgroup") as file:
            if not is_inside(file.read(), container_id):
                return None
        with open(f"{proc}/{pid}/status", errors="replace") as file:
            pids = parse_pids(file.read())
        with open(f"{proc}/{pid}/stat", errors="replace") as file:
            state, started = parse_stat(file.read())
        return Candidate(pid, pids or (pid,), started) if state != _ZOMBIE else None
    return None


def parse_pids(status: str) -> tuple[int, ...]:
    """The numbers in the text of /proc/PID/status (NSpid); empty before Linux 4.1."""
    for line in status.splitlines():
        if line.startswith("NSpid:"):
            return tuple(map(int, line.split()[1:]))
    return ()


def parse_stat(stat: str) -> tuple[str, int]:
    """State and start time in the text of /proc/PID/stat, where the program's name may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[19])
