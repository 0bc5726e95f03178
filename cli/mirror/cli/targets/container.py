"""`container/NAME`: a running container of docker, podman or nerdctl. Asks the engine's own command for its process."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Mapping

from mirror.cli.errors import TargetError

ENGINES = ("docker", "podman", "nerdctl")
"""In the order in which they are asked; all take the same `inspect`."""
_TIMEOUT_S = 20.0
"""An engine's service may have to be started first."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one engine said.

    Attributes:
        engine: Its name.
        pid: Of the container's first process, in the eyes of the engine; 0 if it does not run.
        container_id: The full id; empty where there is no such container.
        status: `running`, `exited`, ...; empty where there is no such container.
        complaint: The last line of what it wrote to standard error, where it failed.
    """

    engine: str
    pid: int = 0
    container_id: str = ""
    status: str = ""
    complaint: str = ""


def find(name: str, variables: Mapping[str, str]) -> int:
    """The process id, on this machine, of a container's first process.

    Args:
        name: As `docker ps` and its like show it, or the beginning of an id.
        variables: The user's environment: PATH, DOCKER_HOST, XDG_RUNTIME_DIR, ...

    Raises:
        TargetError: There is no engine, no such container, or it does not run on this machine.
    """
    commands = {engine: path for engine in ENGINES if (path := shutil.which(engine, path=variables.get("PATH")))}
    asked = [_Inspection(engine, path, name, variables) for engine, path in commands.items()]
    answer = choose(name, [inspection.wait() for inspection in asked])
    if not _is_here(answer):
        raise TargetError(
            f"container {name} runs on another machine, or in a virtual machine, as far as {answer.engine} is "
            f"concerned; run mirror there"
        )
    return answer.pid


def _is_here(answer: Answer) -> bool:
    """Whether the process of that number on this machine is the container's: its id is in what it is mounted from."""
    for file_name in ("cgroup", "mountinfo"):
        try:
            with open(f"/proc/{answer.pid}/{file_name}") as file:
                if answer.container_id in file.read():
                    return True
        except OSError:
            continue
    return False


def choose(name: str, answers: list[Answer]) -> Answer:
    """Decides from what the engines said, in order of preference. Raises TargetError as `find` does."""
    if not answers:
        raise TargetError(
            f"container {name}: no container engine is in PATH; install one of {', '.join(ENGINES)}, or name the "
            f"container's process as pid/N"
        )
    for answer in answers:
        if answer.pid > 0:
            return answer
    for answer in answers:
        if answer.status:
            raise TargetError(
                f"container {name} does not run ({answer.status}); start it with `{answer.engine} start {name}`"
            )
    said = "; ".join(f"{answer.engine}: {answer.complaint or 'no such container'}" for answer in answers)
    raise TargetError(f"there is no container {name} ({said}); `{answers[-1].engine} ps` lists those that run")


class _Inspection:
    """One engine's `inspect`, running; several run side by side."""

    def __init__(self, engine: str, path: str, name: str, variables: Mapping[str, str]) -> None:
        self._engine = engine
        self._process = subprocess.Popen(
            [path, "container", "inspect", "--format", "{{.State.Pid}} {{.Id}} {{.State.Status}}", "--", name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(variables),
            text=True,
            errors="replace",
        )

    def wait(self) -> Answer:
        """What it said, once it has."""
        try:
            output, errors = self._process.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return Answer(self._engine, complaint=f"did not answer within {_TIMEOUT_S:.0f} s")
        words = output.split()
        if self._process.returncode == 0 and len(words) == 3 and words[0].isdecimal():
            return Answer(self._engine, int(words[0]), words[1], words[2])
        complaint = next((line.strip() for line in reversed(errors.split("\n")) if line.strip()), "")
        return Answer(self._engine, complaint=complaint)
