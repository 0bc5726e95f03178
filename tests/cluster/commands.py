"""Running programs: quiet while they succeed, with their last words when they do not."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.places import ClusterError

# Where Debian keeps what an administrator runs; not every user's PATH has it.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


CONTAINED = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Before a command: its mounts and its children end with it, however it ends."""

_SET_PARENT_DEATH_SIGNAL = 1
_libc = ctypes.CDLL(None)
_locks: set[int] = set()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps others of this file's holders waiting, until the last program that `run` started meanwhile has ended too.

    When this process is killed, what it runs is, but a moment later.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _locks.add(lock.fileno())
        try:
            yield
        finally:
            _locks.discard(lock.fileno())


@contextmanager
def step(what: str) -> Iterator[None]:
    """Says what is being done, when it is done, and how long it took."""
    started = time.monotonic()
    print(f"  {what} ...", end="", flush=True)
    try:
        yield
    except BaseException:
        print(" failed", flush=True)
        raise
    print(f" {time.monotonic() - started:.1f} s", flush=True)


def run(
    arguments: Sequence[object],
    *,
    log: Path | None = None,
    feed: str | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Runs a program and returns what it printed. It does not outlive this process.

    Args:
        arguments: The program, searched for in PATH and where administrators' programs are, and its arguments.
        log: Gets everything that the program prints, instead of the caller.
        feed: Its standard input.
        environment: Added to this process's own.
        folder: Its working directory.

    Raises:
        ClusterError: it is missing or failed.
    """
    variables = {**os.environ, "PATH": SEARCH_PATH, **(environment or {})}
    words = [str(argument) for argument in arguments]
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(log or os.devnull, "a") as sink:
            done = subprocess.run(
                words,
                input=feed or "",
                stdout=sink if log else subprocess.PIPE,
                stderr=subprocess.STDOUT if log else subprocess.PIPE,
                text=True,
                env=variables,
                cwd=folder,
                check=False,
                pass_fds=tuple(_locks),
                preexec_fn=lambda: _libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL),
            )
    except FileNotFoundError:
        raise ClusterError(
            f"{words[0]} is missing: install it (tests/install-packages cluster does on Debian)"
        ) from None
    if done.returncode:
        said = f"see {log}" if log else (done.stderr.strip().splitlines() or ["it said nothing"])[0]
        raise ClusterError(f"`{' '.join(words[:4])} ...` ended with status {done.returncode}: {said}")
    return done.stdout or ""


def found(program: str) -> bool:
    return shutil.which(program, path=SEARCH_PATH) is not None
