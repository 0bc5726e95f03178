"""Frida's process answers or is known to have crashed, ends with its starter, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirror.cli.inject import InjectFailed, frida_process
from mirror.cli.inject.frida_process import FridaProcess
from tests.cli.conftest import wait_until
from tests.cli.processes import children, has_frida, is_traced, of_session, running_from


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, and for those of this login."""
    for name in ("TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


@pytest.fixture
def frida(temporary: Path) -> Iterator[FridaProcess]:
    with FridaProcess() as process:
        yield process


def test_probe(frida: FridaProcess) -> None:
    report = frida.probe()
    assert report.libc
    assert b"execve" in report.recipe
    assert frida.probe() == report


def test_failure_is_told(frida: FridaProcess) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(InjectFailed, match="ended while it was being hooked"):
        frida.inject(process.pid)


def test_crash_is_told(frida: FridaProcess) -> None:
    os.kill(frida.pid, signal.SIGKILL)
    with pytest.raises(InjectFailed, match="the C library cannot be looked at, since Frida has crashed"):
        frida.probe()
    wait_until(lambda: not frida.is_running(), "it runs")
    with pytest.raises(InjectFailed, match="process 1 could not be hooked, since Frida has crashed"):
        frida.inject(1)


def test_leaves_nothing(frida: FridaProcess, temporary: Path) -> None:
    frida.probe()
    assert has_frida(frida.pid)
    assert not has_frida(os.getpid())
    assert of_session(frida.pid) == {frida.pid}
    frida.close()
    assert of_session(frida.pid) == set()
    assert running_from(temporary) == set()
    assert list(temporary.iterdir()) == []


STARTER = """
import sys
from mirror.cli.inject.frida_process import FridaProcess
frida = FridaProcess()
print(frida.pid, flush=True)
frida.probe()
print("done", flush=True)
while sys.argv[1] == "again":
    frida.probe()
sys.stdin.read()
"""
MOMENTS: dict[str, Callable[[int], object]] = {
    "at once": lambda pid: True,
    "Frida is loaded": has_frida,
    "the throw-away process is there": children,
    "Frida attaches to it": lambda pid: any(map(is_traced, children(pid))),
}


@pytest.mark.parametrize("moment", [*MOMENTS, "all is done"])
@pytest.mark.parametrize("victim", ["starter", "Frida"])
def test_whatever_dies_nothing_is_left(temporary: Path, moment: str, victim: str) -> None:
    # A busy machine may let a moment pass before anybody can see it: then it comes again.
    command = [sys.executable, "-c", STARTER, "again" if moment in MOMENTS else "once"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as starter:
        try:
            assert starter.stdout is not None
            pid = int(starter.stdout.readline())
            if moment in MOMENTS:
                wait_until(lambda: MOMENTS[moment](pid), f"this never came: {moment}")
            else:
                assert starter.stdout.readline() == b"done\n"
            os.kill(pid if victim == "Frida" else starter.pid, signal.SIGKILL)
            wait_until(lambda: not of_session(pid), "Frida or the throw-away process is left")
        finally:
            starter.kill()
    assert running_from(temporary) == set()
    assert list(temporary.iterdir()) == []


def test_hanging_is_told(frida: FridaProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frida_process, "_PROBE_WITHIN_S", 0.01)
    os.kill(frida.pid, signal.SIGSTOP)
    with pytest.raises(InjectFailed, match="the C library cannot be looked at, since Frida hangs; try again"):
        frida.probe()
