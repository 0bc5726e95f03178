from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.cli.proxy import console


def identity(fd: int) -> tuple[int, int, int]:
    state = os.fstat(fd)
    return state.st_dev, state.st_ino, state.st_rdev


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def running(stderr: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr)


def test_sentence_goes_to_the_processes_standard_error(pipe: tuple[int, int]) -> None:
    read, write = pipe
    with running(write) as process:
        assert console.tell("look out", [process.pid], identity(write))
        assert os.read(read, 99) == b"mirror: look out\n"
        assert process.stdin is not None
        process.stdin.close()


def test_what_the_program_has_put_there_since_gets_nothing(pipe: tuple[int, int], tmp_path: Path) -> None:
    with open(tmp_path / "database", "wb") as other, running(other.fileno()) as process:
        assert not console.tell("look out", [process.pid], identity(pipe[1]))
        assert process.stdin is not None
        process.stdin.close()
    assert (tmp_path / "database").read_bytes() == b""


def test_dead_processes_are_passed_over(pipe: tuple[int, int]) -> None:
    read, write = pipe
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    with running(write) as process:
        assert console.tell("look out", [dead.pid, process.pid], identity(write))
        assert os.read(read, 99) == b"mirror: look out\n"
        assert process.stdin is not None
        process.stdin.close()


def test_nobody_and_no_console() -> None:
    assert not console.tell("look out", [], (1, 2, 3))
    assert not console.tell("look out", [os.getpid()], None)


def test_full_pipe_does_not_block(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_PATIENCE_MS", 10)
    _, write = pipe
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    with running(write) as process:
        assert not console.tell("look out", [process.pid], identity(write))
        assert process.stdin is not None
        process.stdin.close()


def test_nothing_of_it_is_kept(pipe: tuple[int, int]) -> None:
    _, write = pipe
    before = sorted(os.listdir("/proc/self/fd"))
    with running(write) as process:
        console.tell("look out", [process.pid], identity(write))
        assert process.stdin is not None
        process.stdin.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
