"""What the kernel of this machine lends to its users, as `mirror doctor` tells it.

Nothing is changed by asking: a device is opened and closed, and seccomp(2) has a question that installs no filter.
"""

from __future__ import annotations

import ctypes
import os
import platform

FUSE = "/dev/fuse"
_SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
_GET_ACTION_AVAIL = 2
_RET_USER_NOTIF = 0x7FC00000
"""linux/seccomp.h; since Linux 5.0."""


def why_no_fuse(device: str = FUSE) -> str:
    """Why this user cannot make file systems in user space; empty if they can."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{device}: {error.strerror}"
    return ""


def why_no_user_notification(action: int = _RET_USER_NOTIF) -> str:
    """Why a process of this machine cannot be given another's system calls to answer (seccomp_unotify(2)); or empty.

    Args:
        action: What a filter is to return.
    """
    number = _SYS_SECCOMP.get(platform.machine())
    if number is None:
        return f"its number on {platform.machine()} is not known to mirror"
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = ctypes.c_uint32(action)
    if libc.syscall(ctypes.c_long(number), ctypes.c_uint(_GET_ACTION_AVAIL), ctypes.c_uint(0), ctypes.byref(wanted)):
        return f"Linux {platform.release()}: {os.strerror(ctypes.get_errno())}"
    return ""
