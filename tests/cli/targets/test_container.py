from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from mirror.cli.errors import TargetError
from mirror.cli.targets import container
from mirror.cli.targets.container import Answer
from tests.cli.conftest import wait_until

# --- what the engines' answers mean -----------------------------------------------------------------------


def complaint(*answers: Answer) -> str:
    with pytest.raises(TargetError) as caught:
        container.choose("web", list(answers))
    return caught.value.sentence


def test_first_engine_that_runs_it() -> None:
    answers = [
        Answer("docker", complaint="no"),
        Answer("podman", 7, "id", "running"),
        Answer("nerdctl", 8, "id2", "up"),
    ]
    assert container.choose("web", answers).pid == 7


def test_running_beats_stopped() -> None:
    assert container.choose("web", [Answer("docker", 0, "id", "exited"), Answer("podman", 7, "id", "running")]).pid == 7


def test_stopped_container_names_the_engine() -> None:
    sentence = complaint(Answer("docker", complaint="no"), Answer("podman", 0, "id", "exited"))
    assert "exited" in sentence
    assert "podman start web" in sentence


def test_unknown_container_gives_every_engines_reason() -> None:
    sentence = complaint(Answer("docker", complaint="no daemon"), Answer("podman"))
    assert "no daemon" in sentence
    assert "podman: no such container" in sentence


def test_no_engine() -> None:
    assert "PATH" in complaint()


def test_container_of_another_machine(tmp_path: Path) -> None:
    """An engine may be on another machine, and its process ids mean nothing here."""
    engine = tmp_path / "docker"
    engine.write_text(f"#!/bin/sh\necho {os.getpid()} {'0' * 64} running\n")
    engine.chmod(0o755)
    with pytest.raises(TargetError, match="another machine"):
        container.find("web", {"PATH": f"{tmp_path}"})


# --- a real container -------------------------------------------------------------------------------------

_RUN = ("run", "--detach", "--network=none", "--cgroups=disabled")
_FEW = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
"""Limits that no privilege is needed for."""
_PURE_CGROUP = "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec podman "
"""For machines with cgroups in hybrid mode, where crun refuses to start: only this command sees version 2."""


class Container:
    """A podman container on a root directory made here: no registry is asked."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.name = f"mirror-test-{uuid.uuid4().hex[:12]}"
        for name in ("usr", "proc", "sys", "dev", "run", "tmp", "etc", "app"):
            (folder / name).mkdir()
        for name in ("bin", "sbin", "lib", "lib64", "lib32"):
            if os.path.islink(f"/{name}"):
                (folder / name).symlink_to(f"usr/{name}")
        (folder / "app" / "marker").write_text("in the container\n")
        options = [f"--name={self.name}", "--volume=/usr:/usr:ro", "--env=ONLY_IN_CONTAINER=yes"]
        self.complaint = self._start([*_RUN, *_FEW, *options, "--rootfs", str(folder), *command])

    def _start(self, arguments: Sequence[str]) -> str:
        """Empty if it runs; else why it does not."""
        result = subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=120)
        if result.returncode != 0 and os.getuid() == 0:
            self.close()
            shell = ["unshare", "--mount", "sh", "-c", _PURE_CGROUP + '"$@"', "sh", *arguments]
            result = subprocess.run(shell, capture_output=True, text=True, timeout=120)
        return result.stderr if result.returncode != 0 else ""

    def podman(self, *arguments: str) -> None:
        subprocess.run(["podman", *arguments, self.name], capture_output=True, timeout=120, check=True)

    def close(self) -> None:
        self.podman("rm", "--force", "--time=0", "--ignore")


@contextmanager
def running(folder: Path, *command: str) -> Iterator[Container]:
    if shutil.which("podman") is None:
        pytest.skip("no podman")
    started = Container(folder, *command)
    try:
        if started.complaint:
            pytest.skip(f"podman cannot start containers here: {started.complaint}")
        yield started
    finally:
        started.close()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Container]:
    with running(tmp_path, "sleep", "1000") as container:
        yield container


def mirror(name: str, *command: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "mirror.cli", "exec", "-t", f"container/{name}", "--", *command]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60)


def test_program_in_a_container(real: Container) -> None:
    result = mirror(real.name, "sh", "-c", "cat /app/marker; echo $ONLY_IN_CONTAINER")
    assert result.stdout == "in the container\nyes\n", result.stderr
    assert result.stderr == ""


def test_environment_of_a_container_that_has_written_a_title_over_it(tmp_path: Path) -> None:
    with running(tmp_path, "perl", "-e", '$0 = "worker: idle"; open my $file, ">", "/tmp/begun"; sleep 1000') as titled:
        wait_until((tmp_path / "tmp/begun").exists, "the program does not begin")
        result = mirror(titled.name, "sh", "-c", "echo $ONLY_IN_CONTAINER")
    assert (result.stdout, result.stderr) == ("yes\n", "")


def test_container_that_has_been_stopped(real: Container) -> None:
    real.podman("stop", "--time=0")
    result = mirror(real.name, "true")
    assert result.returncode == 125
    assert "podman start" in result.stderr
