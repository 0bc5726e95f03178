"""`mirror exec` on a terminal, under a shell with job control: as a user sits before it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from tests.cli.conftest import Target

_TIMEOUT_S = 60.0
_PROMPT = "ready>"


class Terminal:
    """An interactive shell on a pseudo-terminal."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._controller, terminal = pty.openpty()
        variables = {**variables, "PS1": _PROMPT, "TERM": "xterm"}
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "--noediting", "-i"],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=variables,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(terminal)
        self._seen = ""
        self.expect(_PROMPT)
        self.type("stty -echo\n")
        self.expect(_PROMPT)

    def type(self, keys: str) -> None:
        """What the user types."""
        os.write(self._controller, keys.encode())

    def expect(self, pattern: str) -> str:
        """Waits until something matches, and gives what was shown until then."""
        give_up_at = time.monotonic() + _TIMEOUT_S
        while (found := re.search(pattern, self._seen)) is None:
            left_s = give_up_at - time.monotonic()
            assert left_s > 0, f"{pattern!r} was not shown, but {self._seen!r}"
            if select.select([self._controller], [], [], left_s)[0]:
                self._seen += os.read(self._controller, 4096).decode(errors="replace")
        shown, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return shown

    def close(self) -> None:
        """Hangs up."""
        self.shell.kill()
        self.shell.wait()
        os.close(self._controller)


@pytest.fixture
def terminal(target: Target) -> Iterator[Terminal]:
    terminal = Terminal(target.variables)
    try:
        yield terminal
    finally:
        terminal.close()


def test_interrupt(target: Target, terminal: Terminal) -> None:
    terminal.type(shlex.join(target.command("sh", "-c", "echo runs; while :; do read x; done")) + "\n")
    terminal.expect("runs")
    terminal.type("\x03")
    terminal.expect(_PROMPT)
    terminal.type("echo status $?\n")
    terminal.expect("status 130")


def test_interrupt_during_the_start(target: Target, terminal: Terminal) -> None:
    terminal.type(shlex.join(target.command("sleep", "100")) + "\n")
    terminal.expect("mirror: [a-z]")
    terminal.type("\x03")
    terminal.expect(_PROMPT)
    terminal.type("echo status $?\n")
    terminal.expect("status 130")
    target.wait_alone()


def test_stop_and_go_on(target: Target, terminal: Terminal) -> None:
    terminal.type(shlex.join(target.command("sh", "-c", "echo runs; while read x; do echo got $x; done")) + "\n")
    terminal.expect("runs")
    terminal.type("one\n")
    terminal.expect("got one")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.expect(_PROMPT)
    terminal.type("fg\n")
    terminal.type("two\n")
    terminal.expect("got two")
    terminal.type("\x04")
    terminal.expect(_PROMPT)


def test_background_job_has_the_shells_pid_and_its_own_group(target: Target, terminal: Terminal) -> None:
    program = "import os; print('pids', os.getpid(), os.getpgrp(), os.ttyname(0), flush=True)"
    terminal.type(shlex.join(target.command(sys.executable, "-c", program)) + " & echo job $!; wait; echo over\n")
    shown = terminal.expect("over")
    job = re.search(r"job (\d+)", shown)
    pids = re.search(r"pids (\d+) (\d+) /dev/pts", shown)
    assert job is not None
    assert pids is not None, shown
    assert job[1] == pids[1] == pids[2]


def test_progress_leaves_no_trace_on_the_screen(target: Target, terminal: Terminal) -> None:
    terminal.type(shlex.join(target.command("echo", "hello")) + "\n")
    shown = terminal.expect(_PROMPT)
    lines = [line.split("\x1b[K")[-1].strip("\r") for line in shown.split("\n")]
    assert lines == ["hello", _PROMPT]


def test_end_of_the_terminal_ends_the_session(target: Target) -> None:
    terminal = Terminal(target.variables)
    terminal.type(shlex.join(target.command("sh", "-c", "echo runs; read x")) + "\n")
    terminal.expect("runs")
    terminal.close()
    target.wait_alone()
