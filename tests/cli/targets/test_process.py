from __future__ import annotations

import os
import subprocess

import pytest

from mirror.cli import targets
from mirror.cli.errors import EXIT_FAILED, EXIT_USAGE, TargetError
from mirror.cli.targets import process


@pytest.mark.parametrize("target", ["demo", "pid/17", "container/web", "container/a/b"])
def test_names_of_targets(target: str) -> None:
    assert "/".join(filter(None, targets.parse(target))) == target


@pytest.mark.parametrize("target", ["", "demo/x", "pid", "pid/", "container/", "pod/x", "17"])
def test_no_names_of_targets(target: str) -> None:
    with pytest.raises(TargetError) as caught:
        targets.parse(target)
    assert caught.value.exit_status == EXIT_USAGE


@pytest.mark.parametrize("name", ["pid/x", "pid/-1", "pid/1.5", "pid/²"])
def test_pid_must_be_a_number(name: str) -> None:
    with pytest.raises(TargetError) as caught:
        targets.open_target(name, {})
    assert caught.value.exit_status == EXIT_USAGE


def test_own_process_may_be_entered() -> None:
    target = targets.open_target(f"pid/{os.getpid()}", {})
    assert target.pid == os.getpid()
    target.close()


@pytest.mark.parametrize("pid", [0, 1 << 22, 1 << 30])
def test_no_such_process(pid: int) -> None:
    with pytest.raises(TargetError, match=f"no process {pid}") as caught:
        process.check(pid)
    assert caught.value.exit_status == EXIT_FAILED


def test_ended_process() -> None:
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(TargetError, match="has ended"):
            process.check(ended.pid)


def test_thread_of_the_kernel_or_of_a_container() -> None:
    with open("/proc/2/comm") as file:
        is_kernel = file.read() == "kthreadd\n"
    if not is_kernel:
        pytest.skip("process 2 is none of the kernel's: this is a container")
    # Who is not root may not even look whether it has an executable.
    with pytest.raises(TargetError, match="kernel" if os.getuid() == 0 else "another user"):
        process.check(2)
