"""`pid/N`: any process on this machine that the user may enter. Says early and exactly why one may not."""

from __future__ import annotations

import os

from mirror.cli.errors import TargetError

_LARGEST_PID = 1 << 22
"""PID_MAX_LIMIT of Linux."""


def check(pid: int) -> None:
    """Sees whether there is such a process, and whether this user may look into it.

    Whether its namespaces can be entered is seen by the agent, which tries.

    Raises:
        TargetError: There is none, it has ended, or it is another user's.
    """
    state = _state(pid)
    if state in ("Z", "X"):
        raise TargetError(f"process {pid} has ended and only waits for its parent to notice; choose one that runs")
    try:
        os.stat(f"/proc/{pid}/root/")
        with open(f"/proc/{pid}/environ", "rb") as file:
            file.read(1)
        os.readlink(f"/proc/{pid}/exe")
    except PermissionError:
        raise TargetError(f"process {pid} belongs to another user{_owner(pid)}; use `sudo -E mirror ...`") from None
    except (FileNotFoundError, ProcessLookupError):
        if _state(pid) not in ("Z", "X"):  # it is there, but has no memory and no executable
            raise TargetError(f"process {pid} is a thread of the kernel; choose a program's process") from None
        raise TargetError(f"process {pid} has just ended; choose one that runs") from None


def _state(pid: int) -> str:
    """The letter that ps(1) shows. Raises TargetError where there is no such process."""
    missing = TargetError(f"there is no process {pid} on this machine; `ps aux` lists them")
    if not 0 < pid <= _LARGEST_PID:
        raise missing
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return chr(file.read().rpartition(b")")[2].split()[0][0])
    except (FileNotFoundError, ProcessLookupError):
        raise missing from None


def _owner(pid: int) -> str:
    import pwd

    try:
        user_id = os.stat(f"/proc/{pid}").st_uid
        return f" ({pwd.getpwuid(user_id).pw_name})" if user_id != os.getuid() else " or has more rights than you"
    except (OSError, KeyError):
        return ""
