"""A demo sandbox as target, that lives as long as the test session.

Inside means: in the pod's namespaces, entered by nsenter. The sandbox shows the folder with the programs at its own
path.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mirror.cli.targets.demo import scene
from tests.conformance import catalogue
from tests.conformance.outcome import Outcome, run
from tests.conformance.sides import Sides

LINGER_S = 60.0
"""How long the agent may outlive the program, on a busy machine; otherwise it is under a second."""


class Sandbox(Sides):
    """A sandbox that runs.

    Attributes:
        pid: The pod's first process.
    """

    def __init__(self, pid: int, folder: Path) -> None:
        places = {
            "POD": scene.POD_ADDRESS,
            "INVENTORY": scene.INVENTORY,
            "STOREFRONT": scene.STOREFRONT,
            "NAMESPACE": scene.NAMESPACE,
        }
        # Without the virtual environment: what is compared are programs, not installations.
        super().__init__(("-t", f"pid/{pid}"), folder, os.path.realpath(sys.executable), places)
        self.pid = pid

    def inside(self, command: Sequence[str]) -> Outcome:
        """Runs a command in the pod."""
        pod = {name: value for name, value in scene.ENVIRONMENT.items() if name not in ("PATH", "HOME", "LANG")}
        variables = [f"{name}={value}" for name, value in {**pod, **self.user_environment}.items()]
        entering = ("nsenter", "--preserve-credentials", "-U", "-m", "-n", "-u", "-i", "-p", "-r", "-t", str(self.pid))
        folder = str(self.folder)
        return run([*entering, "env", "-i", "-C", folder, *variables, *command], dict(os.environ), folder)

    def outside(self, command: Sequence[str], options: Sequence[str] = (), **extra: str) -> Outcome:
        """Runs a command under `mirror exec`, until the session's agent has left the pod."""
        outcome = super().outside(command, options, **extra)
        self._wait_for_agents()
        return outcome

    def _wait_for_agents(self) -> None:
        wanted = b"\0mirror.agent\0--pid\0%d\0" % self.pid
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # gone meanwhile
                if wanted in (folder / "cmdline").read_bytes():
                    descriptor = os.pidfd_open(int(folder.name))
                    ready, _, _ = select.select([descriptor], [], [], LINGER_S)
                    os.close(descriptor)
                    assert ready, f"the agent is still there {LINGER_S} s after the last program"


@contextmanager
def sandbox(folder: Path) -> Iterator[Sides]:
    """Runs a sandbox with the programs in it, and the services that they use.

    Args:
        folder: An empty one for the programs.
    """
    catalogue.prepare(folder)
    shared = [str(folder)]
    if not sys.base_prefix.startswith("/usr"):
        shared.append(sys.base_prefix)
    with _running([sys.executable, "-m", "mirror.cli.targets.demo", *shared]) as (process, line):
        pod_pid = int(line)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (cluster_pid,) = (int(child) for child in children if int(child) != pod_pid)
        entering = ("nsenter", "--preserve-credentials", "-U", "-n", "-t", str(cluster_pid))
        services = str(Path(__file__).with_name("services.py"))
        with _running([*entering, sys.executable, services, scene.CALLER]):
            yield Sandbox(pod_pid, folder)


@contextmanager
def _running(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], bytes]]:
    """A program that says a line when it is ready and ends when its standard input does."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{command} ended with {process.wait()} before it was ready")
        yield process, line
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()
