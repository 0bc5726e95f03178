"""Round trips between proxy and agent, as the proxy counts the requests that it sends."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.conformance.catalogue import compiled
from tests.conformance.sides import Sides

OPERATIONS = {
    "open, fstat, read to the end, close of 1 KiB": ("read", 1, 2),
    "stat": ("stat", 1, 2),
    "access of a path that is missing": ("missing", 1, 2),
    "listing of 100 entries with lstat of each": ("list", 1, 2),
    "realpath through two links": ("realpath", 1, 2),
    "getaddrinfo": ("names", 1, 2),
    "connect": ("connect", 1, 1),
}
"""What is counted: the name of the operation in operations.c, and how often it is done to count the first time, and the
first and a second one within the lease."""

_TRIES = 20
_TOO_SLOW = 75
"""The status of operations.c when its operations were further apart than a lease lasts, on a busy machine."""
_IN_MOVED = 0x40 | 0x80
"""From and to: the kernel would make one event of two that are alike."""


def operations(folder: Path) -> Path:
    """The program that does single operations, in a folder that both sides see."""
    place = folder / "operations"
    if not place.exists():
        shutil.copy(compiled(Path(__file__).with_name("operations.c")), place)
    return place


def count(sides: Sides, command: Sequence[str]) -> Counter[str]:
    """Runs a command under `mirror exec` and tells how many requests of each kind went to the agent.

    Raises:
        RuntimeError: The command failed.
    """
    counts = sides.folder / "counts.json"
    for _ in range(_TRIES):
        with arrival(counts) as wait:
            outcome = sides.outside(command, ["--no-incoming"], MIRROR_COUNTS=str(counts))
            if outcome.status not in (0, _TOO_SLOW):
                raise RuntimeError(f"{command}: {outcome}")
            wait()
        found: Counter[str] = Counter(json.loads(counts.read_text()))
        counts.unlink()
        if outcome.status == 0:
            del found["ReadEnvironment"]  # once a session
            return found
    raise RuntimeError(f"{command} took longer than a lease lasts, {_TRIES} times")


@contextmanager
def arrival(path: Path) -> Iterator[Wait]:
    """Gives a function that waits until a file has been moved to a path (inotify(7)): the session's last act."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_CLOEXEC)
    try:
        if libc.inotify_add_watch(watch, os.fsencode(path.parent), _IN_MOVED) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")
        yield Wait(watch, path)
    finally:
        os.close(watch)


class Wait:
    """Waits for a file.

    Attributes:
        watch: A descriptor from which what happens can be read.
    """

    def __init__(self, watch: int, path: Path) -> None:
        self.watch = watch
        self._path = path

    def __call__(self) -> None:
        while not self._path.exists():
            os.read(self.watch, 4096)
