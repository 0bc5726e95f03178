"""What the end-to-end tests of the command line share: a target, a way to run `mirror`, and a look at what is left."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.cli.processes import all_pids, read

MIRROR = (sys.executable, "-m", "mirror.cli")
WITHIN_S = 60.0
"""Bounds a wait on a busy machine; what is waited for takes less than a second."""
_MARK = "MIRROR_TEST_MARK"


class Target:
    """A process to be mirrored: of this machine, with an environment of its own."""

    def __init__(self, *command: str) -> None:
        self.mark = uuid.uuid4().hex
        variables = {"PATH": os.environ["PATH"], "ONLY_IN_TARGET": self.mark, "MODE": "target"}
        self.process = subprocess.Popen(command or ("sleep", "1000"), env=variables, stdin=subprocess.DEVNULL)
        self.name = f"pid/{self.process.pid}"
        self.variables = {**os.environ, _MARK: self.mark, "MODE": "user"}
        self.variables.pop("LC_CTYPE", None)

    def command(self, *command: str, options: Sequence[str] = ()) -> list[str]:
        """The command line that runs a program in this target."""
        return [*MIRROR, "exec", "-t", self.name, *options, "--", *command]

    def run(self, *command: str, options: Sequence[str] = (), **how: Any) -> subprocess.CompletedProcess[str]:
        """Runs a program in this target, to its end."""
        arguments: dict[str, Any] = {"capture_output": True, "text": True, "env": self.variables, "timeout": 60}
        return subprocess.run(self.command(*command, options=options), check=False, **{**arguments, **how})

    def start(self, *command: str, options: Sequence[str] = (), **how: Any) -> subprocess.Popen[str]:
        """Starts a program in this target, with pipes."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        arguments: dict[str, Any] = {**pipes, "text": True, "env": self.variables}
        return subprocess.Popen(self.command(*command, options=options), **{**arguments, **how})

    def proxies(self) -> list[int]:
        """The proxies of this target's sessions."""
        return self.marked("mirror.cli.proxy")

    def marked(self, module: str) -> list[int]:
        """The processes of this target's sessions, on the user's side, that run a module."""
        return [pid for pid in all_pids() if _is_module(pid, module) and self._is_marked(pid)]

    def agents(self) -> list[int]:
        """The agents of this target."""
        number = str(self.process.pid).encode()
        return [pid for pid in all_pids() if _is_module(pid, "mirror.agent") and number in _arguments(pid)]

    def wait_alone(self) -> None:
        """Waits until no proxy and no agent is left."""
        wait_until(lambda: not self.proxies() and not self.agents(), "proxy or agent is left")

    def _is_marked(self, pid: int) -> bool:
        return f"{_MARK}={self.mark}".encode() in read(f"/proc/{pid}/environ").split(b"\0")

    def close(self) -> None:
        """Ends the target, and whatever sessions a failed test has left."""
        for pid in [*self.proxies(), *self.agents()]:
            with contextlib.suppress(ProcessLookupError):  # one's end is the other's
                os.kill(pid, 9)
        self.process.kill()
        self.process.wait()


def wait_until(condition: Callable[[], object], complaint: str) -> None:
    """Looks again and again, until it holds; fails after WITHIN_S."""
    give_up_at = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < give_up_at, complaint
        time.sleep(0.01)


def _arguments(pid: int) -> list[bytes]:
    return read(f"/proc/{pid}/cmdline").split(b"\0")


def _is_module(pid: int, module: str) -> bool:
    arguments = _arguments(pid)
    return b"-m" in arguments and arguments[arguments.index(b"-m") + 1] == module.encode()


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    try:
        yield target
        target.wait_alone()
    finally:
        target.close()
