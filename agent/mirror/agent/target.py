"""The process to stand in for: whether it may be entered, and what entering it takes.

Everything that is needed of /proc/PID is opened here once, before anything is entered: afterwards the view may
differ, and a held descriptor cannot come to mean another process when the number is used again. A namespace or root
that is our own already needs no entering; then no privilege is needed either, and an ordinary user can stand in for
any process of their own.

The order of entering, and who does it:

1. The agent and its worker: the target's user namespace, if it is another. That gives every capability in it,
   also to an ordinary user who owns it, and must happen while the process has one thread.
2. The worker only (`entry`): network and host name, root, ids, capabilities.
3. A thread of the agent, for sockets that need the agent's privileges (`incoming.namespace`).

The target's root is entered by chroot(2) alone, not its mount namespace: paths then resolve as in the target, and
CAP_SYS_CHROOT is all it takes. Its pid namespace is left alone, so that its processes never see ours.
Nothing here runs for long or knows the protocol.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from mirror.agent import libc
from mirror.agent.attributes import of_descriptor
from mirror.agent.credentials import Credentials, parse_status
from mirror.protocol.features import FEATURES

_LARGEST_STATUS_BYTES = 1 << 20

_NETWORK: Final = frozenset({"names", "outgoing", "incoming"})
_HOST_NAME: Final = frozenset({"environment", "names"})
_ROOT: Final = frozenset({"files", "names"})
_ENVIRONMENT: Final = frozenset({"environment", "names"})
"""The features that need each part. The resolver reads variables of the environment."""


class TargetError(Exception):
    """The target cannot be entered at all: a sentence with a remedy."""


@dataclass(frozen=True)
class Target:
    """A process, held by descriptors. Those of things that need no entering are None."""

    pid: int
    pidfd: int
    user_fd: int | None
    network_fd: int | None
    host_name_fd: int | None
    """Its uts namespace: the C library takes the default search domain from the host name."""
    root_fd: int | None
    outer_credentials: Credentials
    """As seen from outside its user namespace."""
    environment_fd: int | None
    """Its /proc/PID/environ; None where that may not be opened, or from inside its user namespace only."""
    node_network_fd: int | None
    """The network namespace of its machine's first process; None where that cannot be seen."""
    is_own: bool
    """Whether it is the agent itself, which then stands in for its own container."""
    mounts_fd: int | None = None
    """Its mount namespace, held so that no volume goes before its end is known: the kernel takes the last process's
    mounts away earlier in do_exit (kernel/exit.c) than it tells of its end. None where nobody needs that."""

    @classmethod
    def open(cls, pid: int, features: Collection[str] = FEATURES, *, holds_mounts: bool = False) -> Target:
        """Takes hold of a process.

        Args:
            pid: Its number; this process's own is a target too, with nothing to enter.
            features: What is wanted of it. What only others need is left alone.
            holds_mounts: Whether its mounts are to stay for as long as this process does.

        Raises:
            TargetError: There is no such process, or this user may not look into it.
        """
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise TargetError(f"there is no process {pid} any more; name one that runs") from None
        except OSError as error:
            # EINVAL, and ENOENT where the kernel could follow threads if asked to (since Linux 6.9).
            if error.errno in (errno.EINVAL, errno.ENOENT) and os.path.exists(f"/proc/{pid}"):
                raise TargetError(f"{pid} is a thread; name its process, see Tgid in /proc/{pid}/status") from None
            raise TargetError(f"process {pid} cannot be followed: {error.strerror}") from None
        try:
            target = cls(
                pid=pid,
                pidfd=pidfd,
                user_fd=_open_namespace(pid, "user"),
                network_fd=_open_namespace(pid, "net") if _NETWORK.intersection(features) else None,
                host_name_fd=_open_namespace(pid, "uts") if _HOST_NAME.intersection(features) else None,
                root_fd=_open_root(pid) if _ROOT.intersection(features) else None,
                outer_credentials=read_credentials(pid),
                environment_fd=_open_environment(pid) if _ENVIRONMENT.intersection(features) else None,
                node_network_fd=_open_node_network(pid) if "incoming" in features else None,
                is_own=pid == os.getpid(),
                mounts_fd=_open_namespace(pid, "mnt") if holds_mounts and _ROOT.intersection(features) else None,
            )
        except OSError as error:
            if _has_ended(pidfd) or isinstance(error, ProcessLookupError):
                raise TargetError(f"process {pid} has ended; name one that runs") from None
            raise TargetError(_why_closed(pid, error)) from None
        if _has_ended(pidfd):
            raise TargetError(f"process {pid} has ended; name one that runs")
        return target

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended; its number may then mean another."""
        return _has_ended(self.pidfd)

    def enter_user_namespace(self) -> None:
        """Takes the calling process, which has one thread, into the target's user namespace.

        Raises:
            TargetError: Not permitted.
        """
        if self.user_fd is None:
            return
        try:
            libc.setns(self.user_fd, libc.CLONE_NEWUSER)
        except OSError as error:
            raise TargetError(
                f"process {self.pid} runs in a user namespace that this user may not enter ({error.strerror});"
                " run mirror as the user who made it, or as root"
            ) from None


def read_credentials(pid: int) -> Credentials:
    """The process's ids and capabilities as seen from the user namespace of the caller.

    Raises:
        OSError: There is no such process.
    """
    fd = os.open(f"/proc/{pid}/status", os.O_RDONLY)
    try:
        return parse_status(os.read(fd, _LARGEST_STATUS_BYTES))
    finally:
        os.close(fd)


def _open_namespace(pid: int, kind: str) -> int | None:
    """The process's namespace, None if it is ours too."""
    theirs = os.stat(f"/proc/{pid}/ns/{kind}")
    ours = os.stat(f"/proc/self/ns/{kind}")
    if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino):
        return None
    return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)


def _open_node_network(pid: int) -> int | None:
    if pid == os.getpid():
        return None  # an agent that stands in for itself sees the processes of its own container only
    try:
        return os.open("/proc/1/ns/net", os.O_RDONLY)
    except OSError:
        return None


def _open_root(pid: int) -> int | None:
    """The process's root directory, None if it is ours too: the same directory of the same mount."""
    theirs_fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY)
    ours_fd = os.open("/", os.O_PATH | os.O_DIRECTORY)
    theirs, ours = of_descriptor(theirs_fd), of_descriptor(ours_fd)
    os.close(ours_fd)
    if (theirs.dev, theirs.ino, theirs.mnt_id) != (ours.dev, ours.ino, ours.mnt_id) or not theirs.mnt_id:
        return theirs_fd
    os.close(theirs_fd)
    return None


def _open_environment(pid: int) -> int | None:
    """The process's environment; None if it belongs to a uid over which this process has no power (from here)."""
    try:
        return os.open(f"/proc/{pid}/environ", os.O_RDONLY)
    except PermissionError:
        return None


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)  # pidfd_open(2): readable once the process has ended
    return bool(poll.poll(0))


def _why_closed(pid: int, error: OSError) -> str:
    """A sentence for an error under /proc/PID of a process that lives."""
    if error.errno == errno.ENOENT:
        return f"process {pid} cannot be seen in /proc (is it mounted with hidepid?); run mirror as root"
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        uid = -1
    if error.errno not in (errno.EACCES, errno.EPERM):
        return f"process {pid} cannot be entered: {error.strerror}"
    if os.geteuid() == 0:
        return (
            f"the kernel does not let mirror's agent look into process {pid}, although it runs as root: let it have"
            " CAP_SYS_PTRACE, and see whether AppArmor or SELinux keeps it apart"
        )
    if uid not in (os.geteuid(), 0, -1):
        return f"process {pid} belongs to another user (uid {uid}); run mirror as that user or as root"
    return (
        f"the kernel does not let this user look into process {pid}: it belongs to root, has more privileges or has"
        " changed its user; run mirror as root"
    )
