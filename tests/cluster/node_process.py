"""The cluster's first process, seen from this machine: starting it, finding it again, running something beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.cgroups import hand_down_controllers, make_cgroups
from tests.cluster.commands import SEARCH_PATH, run
from tests.cluster.places import LOGS, NODE, STATE, ClusterError

RECORD = STATE / "node.json"
NODE_LOG = LOGS / "node.log"


@dataclass
class Node:
    """The first process of the cluster's pid namespace, by its pid here."""

    pid: int

    def alive(self) -> bool:
        return started(self.pid) is not None

    def enter(self, *arguments: object) -> str:
        """Runs a program in the cluster's mount and pid namespaces, and returns what it printed."""
        return run(["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--", *arguments])

    def component(self, name: str) -> int | None:
        """The pid here of a program of the list, such as `kube-apiserver`, if it runs."""
        for child in children(self.pid):
            if Path(f"/proc/{child}/comm").read_text().strip() == name[:15]:
                return child
        return None

    def restart(self, name: str) -> None:
        """Ends a program of the list with SIGKILL; the node starts it again.

        Raises:
            ClusterError: it does not run.
        """
        pid = self.component(name)
        if pid is None:
            raise ClusterError(f"{name} does not run: see {LOGS}")
        os.kill(pid, signal.SIGKILL)


def running_node() -> Node | None:
    """The node of this machine's cluster, if it lives."""
    try:
        record = json.loads(RECORD.read_text())
    except (OSError, ValueError):
        return None
    return Node(record["pid"]) if started(record["pid"]) == record["started"] else None


def start_node(programs: Path) -> tuple[Node, subprocess.Popen[str]]:
    """Starts the first process; its programs wait for `go`.

    Args:
        programs: The list for node.py.

    Returns:
        The node, and the process to which `go` is to be written. Its end is the end of the cluster.

    Raises:
        ClusterError: this machine does not allow it.
    """
    cgroups = make_cgroups()

    def join() -> None:
        os.setsid()
        for cgroup in cgroups:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    namespaces = ["--mount", "--net", "--pid", "--cgroup", "--ipc", "--uts", "--fork", "--kill-child=SIGKILL"]
    command = ["unshare", *namespaces, "--propagation", "private", sys.executable, "-I"]
    command += [str(Path(__file__).with_name("node.py")), str(programs), str(LOGS), NODE]
    with open(NODE_LOG, "a") as log:
        parent = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd="/",
            env={**os.environ, "PATH": SEARCH_PATH},
            preexec_fn=join,
        )
    assert parent.stdout, "a pipe"
    if parent.stdout.readline() != "ready\n":
        raise ClusterError(f"the cluster's namespaces cannot be made here: see {NODE_LOG}")
    [pid] = children(parent.pid)
    hand_down_controllers(cgroups, [parent.pid, pid])
    RECORD.write_text(json.dumps({"pid": pid, "started": started(pid)}))
    return Node(pid), parent


def started(pid: int) -> str | None:
    """When a process was started, if it lives: with its pid this is one process only."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot} {fields[19]}"


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(what: str, holds: Callable[[], object], node: Node, limit: float = 120) -> None:
    """Asks again and again until something holds.

    Raises:
        ClusterError: it does not in time, or the node has ended.
    """
    deadline = time.monotonic() + limit
    while not holds():
        if not node.alive():
            raise ClusterError(f"the cluster has ended while it was waited for {what}: see {NODE_LOG}")
        if time.monotonic() > deadline:
            raise ClusterError(f"{what} took longer than {limit:.0f} s: see {NODE_LOG} and the logs beside it")
        time.sleep(0.05)
