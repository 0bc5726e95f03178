"""A cgroup for the cluster in every hierarchy of this machine: what runs in the cluster is in it, and found by it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

from tests.cluster.node import cgroup_mounts
from tests.cluster.places import NAME, ClusterError


def make_cgroups() -> list[Path]:
    """Makes the cluster's cgroup in each hierarchy, and returns them.

    Raises:
        ClusterError: this machine does not let us.
    """
    made = []
    for folder, *_ in cgroup_mounts():
        top = Path(folder, NAME)
        try:
            top.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                inherited = Path(folder, name)
                if inherited.exists():  # version 1: a new cgroup has none
                    (top / name).write_text(inherited.read_text())
        except OSError as error:
            problem = f"{top} cannot be made ({error.strerror})"
            raise ClusterError(f"{problem}: run make cluster where cgroups may be made") from None
        made.append(top)
    if not made:
        raise ClusterError("no cgroups are mounted here: run make cluster on a machine with /sys/fs/cgroup")
    return made


def hand_down_controllers(tops: list[Path], members: list[int]) -> None:
    """Lets the cluster's cgroups of version 2 have cgroups with limits below them.

    Their processes must then be in a leaf. Not earlier: a cgroup namespace begins where its first process is.

    Args:
        tops: The cluster's cgroups.
        members: All processes in them.
    """
    for top in tops:
        if (top / "cgroup.controllers").exists():
            leaf = top / "node"
            leaf.mkdir(exist_ok=True)
            for pid in members:
                (leaf / "cgroup.procs").write_text(str(pid))
            controllers = (top / "cgroup.controllers").read_text().split()
            (top / "cgroup.subtree_control").write_text(" ".join(f"+{controller}" for controller in controllers))


def processes() -> set[int]:
    """Every process in the cluster's cgroups."""
    found: set[int] = set()
    for folder in folders():
        try:
            found.update(int(word) for word in (folder / "cgroup.procs").read_text().split())
        except OSError:  # gone meanwhile, or a threaded cgroup
            continue
    return found


def end_processes(first: list[int], limit: float = 30) -> None:
    """Kills every process in the cluster's cgroups and waits for the last to be gone.

    Args:
        first: Those to kill before the others.
        limit: Seconds to wait for.

    Raises:
        ClusterError: one survives.
    """
    deadline = time.monotonic() + limit
    while found := processes():
        handles = []
        for pid in [*first, *found]:
            with contextlib.suppress(ProcessLookupError):
                handles.append(os.pidfd_open(pid))
                signal.pidfd_send_signal(handles[-1], signal.SIGKILL)
        for handle in handles:
            select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
            os.close(handle)
        if time.monotonic() > deadline:
            raise ClusterError(f"processes of the cluster do not end: {sorted(found)}; look at them with ps")


def remove_cgroups(limit: float = 30) -> None:
    """Removes the cluster's cgroups, the innermost first.

    Raises:
        ClusterError: the kernel still counts a process in one.
    """
    deadline = time.monotonic() + limit
    for folder in sorted(folders(), key=lambda path: len(path.parts), reverse=True):
        while True:
            try:
                folder.rmdir()
            except FileNotFoundError:
                break
            except OSError as error:
                # A process leaves its cgroups a moment after its end can be seen.
                if time.monotonic() > deadline:
                    raise ClusterError(f"{folder} cannot be removed ({error.strerror}): see its cgroup.procs") from None
                time.sleep(0.01)
            else:
                break


def folders() -> list[Path]:
    """Every cgroup of the cluster, in every hierarchy."""
    return [Path(path) for folder, *_ in cgroup_mounts() for path, _, _ in os.walk(Path(folder, NAME))]
