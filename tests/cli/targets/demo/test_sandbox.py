"""The demo sandbox: it is a pod to whoever looks, it leaves nothing, and it says so where it cannot be made."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mirror.cli.errors import TargetError
from mirror.cli.targets.demo import scene
from mirror.cli.targets.demo.sandbox import Sandbox

COMMAND = [sys.executable, "-m", "mirror.cli.targets.demo"]


@contextmanager
def running(*shared: str, prefix: tuple[str, ...] = ()) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A sandbox's outer process, and the pod's process id."""
    process = subprocess.Popen([*prefix, *COMMAND, *shared], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait()


def in_pod(pid: int, *command: str) -> str:
    """What a command prints in the pod."""
    entering = ("nsenter", "--preserve-credentials", "-U", "-m", "-n", "-u", "-i", "-p", "-r", "-w", "-t", str(pid))
    return subprocess.run([*entering, *command], check=True, capture_output=True, text=True).stdout


def wait_for_end(pid_descriptors: list[int]) -> None:
    """Waits until processes are gone."""
    for descriptor in pid_descriptors:
        ready, _, _ = select.select([descriptor], [], [], 60)
        assert ready, "a process of the sandbox is still there"
        os.close(descriptor)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_it_is_a_pod_to_its_processes() -> None:
    with running() as (_, pid):
        assert in_pod(pid, "uname", "-n") == f"{scene.HOST_NAME}\n"
        assert in_pod(pid, "id", "-u") == "1000\n"
        assert in_pod(pid, "cat", "/app/config/orders.ini") == scene.CONFIG["orders.ini"]
        assert in_pod(pid, "readlink", "-f", "/app/config/orders.ini").startswith("/app/config/..2024")
        assert in_pod(pid, "cat", f"{scene.SECRETS}/namespace") == "shop"
        assert in_pod(pid, "cat", "/proc/1/comm").startswith("python")
        names = in_pod(pid, "getent", "ahosts", "inventory")
        assert scene.INVENTORY in names
        assert scene.INVENTORY_V6 in names
        assert in_pod(pid, "getent", "hosts", scene.INVENTORY).endswith("inventory.shop.svc.cluster.local\n")
        assert len(in_pod(pid, "getent", "ahostsv4", "fleet").splitlines()) == 60 * 3  # too long for a datagram


def test_its_services_are_asked_from_its_address_and_it_is_asked_from_another_one() -> None:
    with running() as (_, pid):
        stock = json.loads(in_pod(pid, "curl", "-sS4", "http://inventory/items/teapot"))
        assert stock == {"item": "teapot", "in_stock": 418, "asked_by": scene.POD_ADDRESS}
        answered: list[dict[str, str]] = []
        while not answered:
            answered = [
                call for call in json.loads(in_pod(pid, "curl", "-sS", "http://storefront/seen")) if "answer" in call
            ]
        assert answered[0]["answer"] == f"{scene.HOST_NAME} answers {answered[0]['path']} for {scene.CALLER}\n"


def test_the_environment_is_the_pods() -> None:
    with running() as (_, pid):
        entries = Path(f"/proc/{pid}/environ").read_bytes().rstrip(b"\0").split(b"\0")
        assert dict(entry.decode().split("=", 1) for entry in entries) == scene.ENVIRONMENT


def test_shared_directories_are_seen_at_their_paths(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from outside")
    with running(str(tmp_path)) as (_, pid):
        assert in_pod(pid, "cat", str(tmp_path / "file")) == "from outside"
        assert in_pod(pid, "ls", "/home") == ""


@pytest.mark.parametrize("end", ["close", "terminate", "kill"])
def test_nothing_is_left_of_it(end: str) -> None:
    with running() as (process, pid):
        shell = subprocess.Popen(["nsenter", "-t", str(pid), "-U", "--preserve-credentials", "-p", "sleep", "1000"])
        processes = [os.pidfd_open(child) for child in [pid, *children(process.pid)]]
        assert len(processes) == 3  # the pod, the pod again, the cluster
        if end == "close":
            assert process.stdin is not None
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM if end == "terminate" else signal.SIGKILL)
        wait_for_end(processes)
        assert shell.wait() != 0  # a process that came in later went with the namespace


def test_it_is_gone_when_it_is_closed() -> None:
    sandbox = Sandbox()
    descriptor = os.pidfd_open(sandbox.pid)
    sandbox.close()
    wait_for_end([descriptor])


def test_an_ordinary_user_may_make_one() -> None:
    # A user namespace without capabilities: root, if this is root, is nobody special in it.
    with running(prefix=("unshare", "--user", "--map-user=1234", "--map-group=1234")) as (_, pid):
        assert Path(f"/proc/{pid}/status").read_text().count("CapEff:\t0000000000000000") == 1


def test_where_user_namespaces_are_forbidden_it_says_how_to_allow_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The limit holds for one user namespace and those below it: nothing of the machine's is changed.
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho 0 > /proc/sys/user/max_user_namespaces\nexec {shutil.which("env")} "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("unshare")} --user --map-root-user "{python}" "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(wrapper))
    with pytest.raises(TargetError, match=r"sudo sysctl -w user\.max_user_namespaces=15000"):
        Sandbox()
