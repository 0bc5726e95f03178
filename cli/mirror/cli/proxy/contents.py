"""Contents of the target's files as descriptors that need no hooks: sealed memfds, opened anew for each open.

Anything that reads works on a memfd: mmap, pread, sendfile, dup, fork, exec, passing it on. It is sealed, so nobody can
change what another program, or a later open within the lease, reads. Each open gets a description of its own (opened
through /proc), so that offsets are separate, the access mode is O_RDONLY and F_GETFL says what was asked for.

A program that no hook reaches still finds the size, mode and times of the target's file on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat as s

from mirror.protocol.messages import Stat

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

# The layer's link has the values of asm-generic (those of x86); arm64 has others for some.
_GENERIC_FLAGS = {
    0o4000: os.O_NONBLOCK,
    0o2000: os.O_APPEND,
    0o20000: os.O_ASYNC,
    0o4010000: os.O_SYNC,
    0o10000: os.O_DSYNC,
    0o1000000: os.O_NOATIME,
    0o10000000: os.O_PATH,
    0o200000: os.O_DIRECTORY,
}
"""What F_GETFL tells of how a file was opened. O_NOFOLLOW is told, too, but would refuse the name in /proc."""

O_PATH = 0o10000000
O_DIRECTORY = 0o200000
O_NOFOLLOW = 0o400000
O_NOATIME = 0o1000000
"""As on the layer's link."""


def reopen(fd: int, flags: int) -> int:
    """A description of its own of what `fd` is.

    Args:
        fd: A memfd or a placeholder.
        flags: Of open(2), with the values of the layer's link; those that are about finding the file are ignored.

    Returns:
        A descriptor, close-on-exec, which the caller closes.

    Raises:
        OSError: There are no descriptors left (EMFILE).
    """
    native = 0
    for generic, value in _GENERIC_FLAGS.items():
        if flags & generic == generic:
            native |= value
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | native)


class Content:
    """A whole file's bytes, as long as this object is referred to; programs that have it open keep it.

    Attributes:
        fd: The memfd, to be given to `reopen`.
        stat: Of the target's file, when it was opened.
        path: Where it really is in the target.
        numbers: (st_dev, st_ino) of the memfd, by which it is recognised again.
        size_bytes: What it weighs.
    """

    def __init__(self, path: bytes, stat: Stat) -> None:
        self.fd = os.memfd_create("mirror", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.path = path
        self.stat = stat
        self.size_bytes = 0
        own = os.fstat(self.fd)
        self.numbers = (own.st_dev, own.st_ino)

    def write(self, data: bytes) -> None:
        """Appends bytes.

        Raises:
            OSError: There is no memory left (ENOMEM, ENOSPC).
        """
        rest = memoryview(data)
        while rest:
            written = os.write(self.fd, rest)
            self.size_bytes += written
            rest = rest[written:]

    def seal(self) -> None:
        """From here on nothing changes."""
        # Cosmetic, for programs without hooks: refused where vm.memfd_noexec forbids the mode.
        with contextlib.suppress(OSError, OverflowError):
            os.fchmod(self.fd, s.S_IMODE(self.stat.mode) & 0o777 | s.S_IRUSR)
        with contextlib.suppress(OSError, OverflowError):
            os.utime(self.fd, ns=(self.stat.atime_ns, self.stat.mtime_ns))
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)

    def __del__(self) -> None:
        if hasattr(self, "fd"):  # else there was no descriptor to be had
            os.close(self.fd)
