"""The two sides of a conformance test: a program inside the target, and under `mirror exec` outside of it.

The target is a demo sandbox that lives as long as the test session. Inside means: in the pod's namespaces, entered by
nsenter. Both sides run in the same folder, which the sandbox shows at the same path, with the same environment as far
as that is the user's own.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mirror.cli.targets.demo import scene
from tests.conformance import catalogue

TIMEOUT_S = 300.0
"""For one session with all ways of one program, on a busy machine."""
LINGER_S = 60.0
"""How long the agent may outlive the program, on a busy machine; otherwise it is under a second."""


@dataclass(frozen=True)
class Outcome:
    """What a program printed (standard output and error together), and its exit status or minus its signal."""

    output: bytes
    status: int

    def __str__(self) -> str:
        return f"{self.output.decode(errors='backslashreplace')}(status {self.status})\n"


@dataclass(frozen=True)
class Sides:
    """A sandbox, and the folder with the programs.

    Attributes:
        pid: The pod's first process.
        cluster_pid: The process around the pod.
        folder: Seen at the same path on both sides.
    """

    pid: int
    cluster_pid: int
    folder: Path

    def inside(self, command: Sequence[str]) -> Outcome:
        """Runs a command in the pod."""
        pod = {name: value for name, value in scene.ENVIRONMENT.items() if name not in ("PATH", "HOME", "LANG")}
        variables = [f"{name}={value}" for name, value in {**pod, **self._user_environment()}.items()]
        entering = ("nsenter", "--preserve-credentials", "-U", "-m", "-n", "-u", "-i", "-p", "-r", "-t", str(self.pid))
        return self._run([*entering, "env", "-i", "-C", str(self.folder), *variables, *command], dict(os.environ))

    def outside(self, command: Sequence[str], options: Sequence[str] = (), **extra: str) -> Outcome:
        """Runs a command under `mirror exec`.

        Args:
            command: The program and its arguments.
            options: Further options of `mirror exec`.
            extra: Further environment variables.
        """
        run = "import sys; from mirror.cli.main import main; sys.exit(main())"
        mirror = (sys.executable, "-c", run, "exec", "-t", f"pid/{self.pid}", *options, "--")
        outcome = self._run([*mirror, *command], {**self._user_environment(), **extra})
        self._wait_for_agents()
        return outcome

    def _wait_for_agents(self) -> None:
        """Waits until the session's agent has left the pod, so that what runs next is alone in it."""
        wanted = b"\0mirror.agent\0--pid\0%d\0" % self.pid
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # gone meanwhile
                if wanted in (folder / "cmdline").read_bytes():
                    descriptor = os.pidfd_open(int(folder.name))
                    ready, _, _ = select.select([descriptor], [], [], LINGER_S)
                    os.close(descriptor)
                    assert ready, f"the agent is still there {LINGER_S} s after the last program"

    def _user_environment(self) -> Mapping[str, str]:
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": os.environ.get("HOME", "/"),
            "LANG": "C.UTF-8",
            "PWD": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "UV_USE_IO_URING": "0",
        }

    def _run(self, command: Sequence[str], environment: Mapping[str, str]) -> Outcome:
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return Outcome(output + b"\n(killed: it took too long)\n", process.returncode)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        return Outcome(output, process.returncode)


def in_turn(commands: Mapping[str, Sequence[str]]) -> list[str]:
    """One command that runs several, each after a line with its name, and shows how each ended."""
    script = "".join(
        f"echo '== {name}'\n{shlex.join(command)}\necho \"== ended with $?\"\n" for name, command in commands.items()
    )
    return ["/bin/sh", "-c", script]


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
        with _running([*entering, sys.executable, str(Path(__file__).with_name("services.py"))]):
            yield Sides(pod_pid, cluster_pid, folder)


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
