"""A file's attributes as the protocol's `Stat`, straight from statx(2).

One call brings everything: the times to the nanosecond, the time of birth, `stx_attributes` and the mount's
number. The structure is unpacked by `struct`, which for directories of thousands of entries matters.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading

from mirror.agent import libc
from mirror.protocol.messages import Stat

_BASIC_STATS = 0x7FF
_BTIME = 0x800
_MNT_ID = 0x1000
_WANTED = _BASIC_STATS | _BTIME | _MNT_ID

_STRUCT = struct.Struct("=IIQIIIHHQQQQqIiqIiqIiqIiIIIIQ")
"""struct statx up to stx_mnt_id (linux/stat.h); times are a second, its nanoseconds and padding."""

_thread = threading.local()


def of_path(path: bytes, *, follow: bool) -> Stat:
    """What stat(2) or, without `follow`, lstat(2) says. Automounts are not set off, as with those calls.

    Raises:
        OSError: As stat(2).
    """
    return of_entry(libc.AT_FDCWD, path, 0 if follow else libc.AT_SYMLINK_NOFOLLOW)


def of_descriptor(fd: int) -> Stat:
    """What fstat(2) says."""
    return of_entry(fd, b"", libc.AT_EMPTY_PATH)


def of_entry(directory_fd: int, name: bytes, flags: int) -> Stat:
    """What fstatat(2) says.

    Raises:
        OSError: As fstatat(2).
    """
    buffer = getattr(_thread, "buffer", None)
    if buffer is None:
        buffer = _thread.buffer = ctypes.create_string_buffer(256)
    libc.statx(directory_fd, name, flags | libc.AT_NO_AUTOMOUNT, _WANTED, buffer)
    (
        mask, blksize, attributes, nlink, uid, gid, mode, _, ino, size, blocks, attributes_mask,
        atime, atime_ns, _, btime, btime_ns, _, ctime, ctime_ns, _, mtime, mtime_ns, _,
        rdev_major, rdev_minor, dev_major, dev_minor, mnt_id,
    ) = _STRUCT.unpack_from(buffer)  # fmt: skip
    return Stat(
        dev=os.makedev(dev_major, dev_minor),
        ino=ino,
        mode=mode,
        nlink=nlink,
        uid=uid,
        gid=gid,
        rdev=os.makedev(rdev_major, rdev_minor),
        size=size,
        blksize=blksize,
        blocks=blocks,
        atime_ns=atime * 10**9 + atime_ns,
        mtime_ns=mtime * 10**9 + mtime_ns,
        ctime_ns=ctime * 10**9 + ctime_ns,
        btime_ns=btime * 10**9 + btime_ns if mask & _BTIME else None,
        attributes=attributes,
        attributes_mask=attributes_mask,
        mnt_id=mnt_id if mask & _MNT_ID else 0,
    )
