"""Sentences for the user while the program runs: on the program's own standard error, of which we keep no copy.

A copy would keep pipes from ending (`mirror exec ... 2>&1 | less` would never see the end of its input). So for each
sentence we borrow the descriptor 2 of a living process of the session for a moment, and only if it still is the file
that it was at the start: a program may have put anything else there since.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import select
from collections.abc import Callable, Iterable, Iterator

_SYS_PIDFD_GETFD = 438
"""The same on every architecture; Linux 5.6."""
_PATIENCE_MS = 500
"""A pipe that is full for longer has a reader that does not read."""

_libc = ctypes.CDLL(None, use_errno=True)


def tell(sentence: str, pids: Iterable[int], console: tuple[int, int, int] | None) -> bool:
    """Shows one sentence. May take _PATIENCE_MS: call it in a thread.

    Args:
        sentence: Without the leading `mirror: `; one line.
        pids: Living processes of the session, the most likely ones first.
        console: `st_dev`, `st_ino` and `st_rdev` of standard error at the start; None: there was none.

    Returns:
        Whether it was written.
    """
    for pid in pids:
        with held(pid, console) as tell_there:
            if tell_there is not None:
                return tell_there(sentence)
    return False


@contextlib.contextmanager
def held(pid: int, console: tuple[int, int, int] | None) -> Iterator[Callable[[str], bool] | None]:
    """Shows a sentence on one process's standard error, also when the process is dead by then.

    Args:
        pid: The process.
        console: As `tell` says.

    Yields:
        `tell` for the sentence alone; None: the process has not got that standard error.
    """
    fd = _borrow(pid) if console is not None else None
    if fd is None:
        yield None
        return
    try:
        state = os.fstat(fd)
        is_console = (state.st_dev, state.st_ino, state.st_rdev) == console
        yield functools.partial(_write, fd) if is_console else None
    finally:
        os.close(fd)


def _borrow(pid: int) -> int | None:
    """Descriptor 2 of another process, close-on-exec; None if it has none or may not be looked into."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    fd = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, 2, 0)
    os.close(pidfd)
    if fd >= 0:
        return int(fd)
    try:
        # Where looking into processes is restricted to their ancestors (Yama). O_APPEND, since it is a new open file.
        return os.open(f"/proc/{pid}/fd/2", os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None


def _write(fd: int, sentence: str) -> bool:
    """Writes without ever blocking: where poll says yes, a pipe takes 4096 bytes (PIPE_BUF)."""
    line = f"mirror: {sentence}\n".encode(errors="replace")
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not any(events & select.POLLOUT for _, events in poll.poll(_PATIENCE_MS)):
        return False
    try:
        return os.write(fd, line[: select.PIPE_BUF]) > 0
    except OSError:
        return False
