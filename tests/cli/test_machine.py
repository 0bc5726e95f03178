from __future__ import annotations

from pathlib import Path

import pytest

from mirror.cli import machine

ACTIONS = Path("/proc/sys/kernel/seccomp/actions_avail")


def test_fuse(tmp_path: Path) -> None:
    assert machine.why_no_fuse("/dev/null") == ""
    assert machine.why_no_fuse(f"{tmp_path}/fuse") == f"{tmp_path}/fuse: No such file or directory"


@pytest.mark.skipif(not ACTIONS.exists(), reason="this kernel does not list what seccomp can do; Linux 4.14 does")
def test_seccomp_says_what_the_kernel_says() -> None:
    is_listed = "user_notif" in ACTIONS.read_text().split()
    assert (machine.why_no_user_notification() == "") == is_listed


def test_seccomp_refuses_what_there_is_not() -> None:
    assert "Operation not supported" in machine.why_no_user_notification(0x7FFA0000)


def test_asking_seccomp_changes_nothing() -> None:
    def state() -> list[str]:
        lines = Path("/proc/self/status").read_text().splitlines()
        return [line for line in lines if line.startswith(("Seccomp", "NoNewPrivs"))]

    before = state()
    machine.why_no_user_notification()
    assert state() == before


def test_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "s390x")
    assert "s390x" in machine.why_no_user_notification()
