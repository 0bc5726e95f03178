"""The system calls that make a sandbox, and what to tell a user whose machine forbids them.

All that is needed is that an unprivileged user may make a user namespace (user_namespaces(7)); inside it the maker
has every capability over the other namespaces that it makes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
from pathlib import Path

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_NOSUID = 2
MS_NODEV = 4
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
_MNT_DETACH = 2
_MOUNT_ATTR_RDONLY = 1
_AT_RECURSIVE = 0x8000
_SYS_MOUNT_SETATTR = 442  # the same on every architecture, as all numbers from 424 on
_PR_SET_PDEATHSIG = 1
_CAPABILITY_VERSION_3 = 0x2008_0522

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    """Raises OSError with errno if a call gave -1."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Moves the calling thread into new namespaces; for CLONE_NEWPID its next children are born there."""
    _check(_libc.unshare(flags), "unshare")


def enter_user_namespace(other_flags: int, uid: int, gid: int) -> None:
    """Makes a user namespace, and others owned by it, in which the caller's ids are `uid` and `gid`.

    Only one of each can be mapped without privileges; files of others seem to belong to nobody (65534).

    Raises:
        OSError: This machine forbids it; `explain` tells why.
    """
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | other_flags)
    proc = Path("/proc/self")
    (proc / "setgroups").write_text("deny")
    (proc / "uid_map").write_text(f"{uid} {outer_uid} 1")
    (proc / "gid_map").write_text(f"{gid} {outer_gid} 1")


def die_with_parent() -> None:
    """Has the kernel kill this process when the thread that forked it ends (prctl(2), PR_SET_PDEATHSIG)."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "prctl")


def set_host_name(name: str) -> None:
    """sethostname(2)."""
    _check(_libc.sethostname(name.encode(), len(name.encode())), "sethostname")


def mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mounts a file system, or shows a part of one elsewhere (mount(2)). Empty means NULL."""
    arguments = (source.encode(), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags))
    _check(_libc.mount(*arguments, options.encode() or None), f"mount {source}")


def bind(source: str, target: Path, *, read_only: bool = True) -> None:
    """Shows a file or a directory with all that is mounted below it at a second place, which must exist."""
    # Without MS_REC the kernel refuses trees whose mounts belong to an outer user namespace.
    mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        # struct mount_attr: attr_set, attr_clr, propagation, userns_fd. Kernels before 5.12 do not know the call; the
        # user's own permissions still hold.
        attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
        path = os.fsencode(target)
        _libc.syscall(_SYS_MOUNT_SETATTR, -100, path, _AT_RECURSIVE, attributes, ctypes.sizeof(attributes))


def change_root(root: Path) -> None:
    """Makes a mount point the root of this mount namespace, with nothing of the former root left in it."""
    os.chdir(root)
    # pivot_root(2), NOTES: with "." twice the former root lies on top of the new one, until it is unmounted.
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")


def drop_capabilities() -> None:
    """Gives up every capability in the user namespace, for ever."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def explain(error: OSError) -> str:
    """One sentence for the user: why no sandbox can be made here, and how to allow it."""
    settings = (
        ("user.max_user_namespaces", "0", "15000"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    )
    if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EUSERS):
        for name, forbidding, allowing in settings:
            with contextlib.suppress(OSError):
                if Path("/proc/sys", *name.split(".")).read_text().strip() == forbidding:
                    return (
                        f"the demo pod needs user namespaces, which this machine forbids to its users ({name} is "
                        f"{forbidding}); allow them with: sudo sysctl -w {name}={allowing}"
                    )
        return (
            f"the demo pod needs user namespaces, and the kernel refused ({error}); inside a container start it with "
            "--security-opt seccomp=unconfined, or use mirror outside of one"
        )
    if error.errno == errno.EINVAL or error.errno == errno.ENOSYS:
        return f"the demo pod needs a kernel with user, network and pid namespaces ({error})"
    return f"the demo pod could not be made: {error}"
