"""Starts the session's proxy so that the user's program never notices it: not its child, not in its terminal.

The program takes the place of the process that calls this, and a program may count on having no children that it
did not make (wait(2) says ECHILD) and on nobody else holding its pipes. So the proxy is a grandchild whose parent
is gone, in a session of its own (no Ctrl-C, no hang-up), with none of the user's descriptors.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import socket
import sys

LINK_FD = 3
"""The proxy's end of the link to its starter."""
PYTHON = (sys.executable, "-E", "-P", "-m")
"""Starts our own modules: whatever PYTHONPATH or the current directory hold is the user's program's affair."""
_ERRORS_FD = 2


class Proxy:
    """The starter's end of a proxy.

    Attributes:
        link: Where `handover`'s lines go; close-on-exec.
    """

    def __init__(self, link: socket.socket, errors_fd: int) -> None:
        self.link = link
        self._errors_fd = errors_fd

    def last_words(self) -> str:
        """The last line that the proxy wrote to its standard error; empty if none. For when it ended unexpectedly."""
        return last_line(self._errors_fd)


def open_errors(name: str) -> int:
    """A file for what a background process writes to its standard error: in memory, or the one MIRROR_LOG names."""
    log = os.environ.get("MIRROR_LOG")
    if log:
        return os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return os.memfd_create(f"mirror-{name}-errors")


def last_line(fd: int) -> str:
    """The last line that is not blank of an open file; empty if there is none."""
    size = os.fstat(fd).st_size
    lines = os.pread(fd, 4096, max(0, size - 4096)).decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def start() -> Proxy:
    """Starts `mirror.cli.proxy`. Returns at once, long before the proxy has imported anything.

    Raises:
        OSError: There are no more processes or descriptors.
    """
    ours, theirs = map(_above_standard, socket.socketpair())
    errors_fd = open_errors("proxy")
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if os.fork() != 0:
                os._exit(0)
            _become_proxy(theirs.fileno(), errors_fd)
        finally:
            os._exit(1)
    theirs.close()
    os.waitpid(child, 0)
    return Proxy(ours, errors_fd)


def _above_standard(pair: socket.socket) -> socket.socket:
    """The same socket with a number above 2: a lower one that is free would be taken for a standard descriptor."""
    if pair.fileno() > _ERRORS_FD:
        return pair
    with pair:
        return socket.socket(fileno=fcntl.fcntl(pair, fcntl.F_DUPFD_CLOEXEC, _ERRORS_FD + 1))


def _become_proxy(link_fd: int, errors_fd: int) -> None:
    log = os.path.abspath(os.environ.get("MIRROR_LOG", ""))
    null_fd = os.open(os.devnull, os.O_RDWR)
    wanted = {0: null_fd, 1: null_fd, _ERRORS_FD: errors_fd, LINK_FD: link_fd}
    # First to numbers that the second step does not overwrite.
    moved = {number: fcntl.fcntl(fd, fcntl.F_DUPFD, LINK_FD + 1) for number, fd in wanted.items()}
    for number, fd in moved.items():
        os.dup2(fd, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > LINK_FD:
            with contextlib.suppress(OSError):  # the one by which the listing was read
                os.close(int(name))
    os.chdir("/")
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    variables = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    if variables.get("MIRROR_LOG"):
        variables["MIRROR_LOG"] = log  # the agent's errors go there too
    os.execve(sys.executable, [*PYTHON, "mirror.cli.proxy"], variables)
