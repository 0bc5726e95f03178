"""The system calls that Python's `os` lacks or tells only half of.

`os.stat` knows neither the time of birth nor attributes, `os.scandir` leaves out `.` and `..`, `os.access` goes
through a libc that may emulate flags, and namespaces, capabilities and `prctl` are not there at all (3.11). Each
function here is one call, errors raised as OSError; ctypes lets other threads run meanwhile.
What the calls are used for is in `files`, `target` and `credentials`; the resolver's functions are in `names`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Final

library: Final = ctypes.CDLL(None, use_errno=True)

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_NO_AUTOMOUNT: Final = 0x800
AT_EMPTY_PATH: Final = 0x1000

CLONE_NEWUTS: Final = 0x0400_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWNET: Final = 0x4000_0000

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_KEEPCAPS: Final = 8
PR_SET_NO_NEW_PRIVS: Final = 38

_SYS_FACCESSAT2: Final = 439
"""The same on every architecture (syscalls since Linux 5.1 share their numbers)."""
_SYS_GETDENTS64: Final = {"x86_64": 217, "aarch64": 61}.get(platform.machine(), 61)
_SYS_CAPGET: Final = {"x86_64": 125, "aarch64": 90}.get(platform.machine(), 90)
_SYS_CAPSET: Final = {"x86_64": 126, "aarch64": 91}.get(platform.machine(), 91)

_CAPABILITY_VERSION_3: Final = 0x2008_0522

library.statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
library.statfs.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
library.realpath.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
library.realpath.restype = ctypes.c_void_p
library.free.argtypes = (ctypes.c_void_p,)
library.syscall.restype = ctypes.c_long


def _check(result: int) -> int:
    """`result`, or the OSError that a result of -1 stands for."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def statx(directory_fd: int, path: bytes, flags: int, mask: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
    """Writes a file's attributes into `buffer`, which has at least 256 bytes."""
    _check(library.statx(directory_fd, path, flags, mask, buffer))


def faccessat2(path: bytes, mode: int, flags: int) -> None:
    """Whether an absolute path may be used so: raises OSError as access(2) does.

    Before Linux 5.8 there is no such call; the C library then emulates the flags.
    """
    try:
        _check(library.syscall(_SYS_FACCESSAT2, AT_FDCWD, ctypes.c_char_p(path), mode, flags))
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        _check(library.faccessat(AT_FDCWD, ctypes.c_char_p(path), mode, flags))


def getdents64(fd: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    """Writes the next entries of a directory into `buffer`; how many bytes they take, 0 at the end."""
    return _check(library.syscall(_SYS_GETDENTS64, fd, buffer, ctypes.c_size_t(len(buffer))))


def realpath(path: bytes) -> bytes:
    """The path without links, `.` and `..`."""
    resolved = library.realpath(path, None)
    if not resolved:
        _check(-1)
    try:
        return ctypes.string_at(resolved)
    finally:
        library.free(resolved)


_STATFS = struct.Struct("@qqQQQQQIIqqq")
"""struct statfs of the 64-bit architectures, up to f_flags (asm-generic/statfs.h)."""


def statfs(path: bytes) -> tuple[int, ...]:
    """Type, bsize, blocks, bfree, bavail, files, ffree, both words of fsid, namelen, frsize and flags."""
    buffer = ctypes.create_string_buffer(256)
    _check(library.statfs(path, buffer))
    return _STATFS.unpack_from(buffer)


_UTS_FIELD_BYTES = 65
"""Each of the six strings of struct utsname (linux/utsname.h)."""


def host_and_domain_name() -> tuple[bytes, bytes]:
    """What uname(2) says of the machine's names, in the calling thread's uts namespace."""
    buffer = ctypes.create_string_buffer(6 * _UTS_FIELD_BYTES)
    _check(library.uname(buffer))
    fields = [buffer.raw[start : start + _UTS_FIELD_BYTES] for start in range(0, len(buffer), _UTS_FIELD_BYTES)]
    return fields[1].partition(b"\0")[0], fields[5].partition(b"\0")[0]


def setns(fd: int, kind: int) -> None:
    """Moves the calling thread into a namespace (CLONE_NEWUSER: the process, which must have one thread)."""
    _check(library.setns(fd, kind))


def prctl(option: int, value: int) -> None:
    """Sets an attribute of the process, one that takes a single argument."""
    _check(library.prctl(option, ctypes.c_ulong(value), *(ctypes.c_ulong(0),) * 3))


def set_filesystem_ids(uid: int, gid: int) -> None:
    """setfsgid(2) and setfsuid(2), which never say whether they worked."""
    library.setfsgid(gid)
    library.setfsuid(uid)


def capabilities() -> tuple[int, int]:
    """The effective and the permitted capabilities of the calling thread, as bit masks (capget(2))."""
    header, data = _capability_header(), ctypes.create_string_buffer(24)
    _check(library.syscall(_SYS_CAPGET, header, data))
    effective_low, permitted_low, _, effective_high, permitted_high, _ = struct.unpack("@6I", data)
    return effective_low | effective_high << 32, permitted_low | permitted_high << 32


def set_capabilities(effective: int, permitted: int) -> None:
    """Sets both masks of the calling thread and empties the inheritable one (capset(2))."""
    low, high = 0xFFFF_FFFF, 32
    data = struct.pack("@6I", effective & low, permitted & low, 0, effective >> high, permitted >> high, 0)
    _check(library.syscall(_SYS_CAPSET, _capability_header(), ctypes.create_string_buffer(data, 24)))


def _capability_header() -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(struct.pack("@Ii", _CAPABILITY_VERSION_3, 0), 8)
