"""File operations in the target's root, for the worker process.

Whatever comes in is a path as the target's own program would give it, and the worker has the target's root, uid,
gids and capabilities: so the kernel itself resolves links and `..` and decides what is permitted, and every
OSError raised here is the errno that the target would get. Functions take a protocol message and give its answer;
`open_file` may add a descriptor from which the rest of a long content is to be read.

Nothing here writes to the target. No threads, no sockets: those are in `worker_process`.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import stat
import struct
from collections.abc import Iterator

from mirror.agent import attributes, libc
from mirror.protocol import codec
from mirror.protocol.messages import (
    CheckAccess,
    DirectoryEntry,
    Done,
    FileOpened,
    FileStatted,
    FilesystemStatted,
    LinkRead,
    OpenFile,
    PathResolved,
    ReadLink,
    ResolvePath,
    Stat,
    StatFile,
    StatFilesystem,
)

FIRST_PART_BYTES = 128 << 10
"""How much content comes with the answer to `OpenFile`: whole configuration files and most libraries' metadata in one
round trip, and still small enough for one datagram of the worker's socket (212,992 bytes by default)."""

MAX_LISTING_BYTES = 256 << 20
"""Of an encoded directory: about two million entries."""

_READ_BYTES = 64 << 10
_ENTRIES_AT_A_TIME = 256

# The asking side uses the values of asm-generic (those of x86); arm64 has others.
_PORTABLE_FLAGS = {
    0o0200000: os.O_DIRECTORY,
    0o0400000: os.O_NOFOLLOW,
    0o1000000: os.O_NOATIME,
    0o10000000: os.O_PATH,
}
_GENERIC_O_ACCMODE = 0o3
_GENERIC_O_CREAT = 0o100
_GENERIC_O_TRUNC = 0o1000
_GENERIC_O_TMPFILE = 0o20000000
_WRITES = _GENERIC_O_ACCMODE | _GENERIC_O_CREAT | _GENERIC_O_TRUNC | _GENERIC_O_TMPFILE

_DIRENT = struct.Struct("=QqHB")
"""struct linux_dirent64 without its name."""
_ARRAY_32 = struct.Struct(">BI")
"""MessagePack's head of an array of up to 2**32-1 elements: 0xdd, then how many."""


class Refusal(OSError):
    """An error of our own making: `strerror` is a sentence for the user."""


def open_file(request: OpenFile, descriptors_fd: int) -> tuple[FileOpened, int | None]:
    """Opens, describes and reads the first part.

    Args:
        request: What to open.
        descriptors_fd: This process's /proc/self/fd, opened while the root was still the agent's own.

    Returns:
        The answer and, unless it is `complete`, a descriptor whose reading goes on where `content` ends. The
        caller closes it.

    Raises:
        Refusal: EFBIG beyond the limit, EROFS for any way of writing, EOPNOTSUPP for pipes and devices.
        OSError: As open(2) and read(2).
    """
    flags = sum(native for generic, native in _PORTABLE_FLAGS.items() if request.flags & generic)
    if flags & os.O_PATH:
        fd = os.open(request.path, flags)
        try:
            return FileOpened(attributes.of_descriptor(fd), path=_real_path(fd, descriptors_fd)), None
        finally:
            os.close(fd)
    if request.flags & _WRITES:
        raise Refusal(errno.EROFS, "files of the target can only be read")
    if not flags & os.O_DIRECTORY:
        _refuse_special(request.path, follow=not flags & os.O_NOFOLLOW)
    # O_NONBLOCK: should the file have become a FIFO meanwhile, this thread must not wait for its writer.
    fd = os.open(request.path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    is_rest_wanted = False
    try:
        described = attributes.of_descriptor(fd)
        path = _real_path(fd, descriptors_fd)
        if stat.S_ISDIR(described.mode):
            return _open_directory(fd, described, path)
        if described.size > request.limit_bytes:
            raise Refusal(
                errno.EFBIG, f"the file has {described.size} bytes, more than the limit of {request.limit_bytes}"
            )
        content, is_rest_wanted = _read_first_part(fd, described.size)
        return FileOpened(described, content, not is_rest_wanted, path), fd if is_rest_wanted else None
    finally:
        if not is_rest_wanted:
            os.close(fd)


def _real_path(fd: int, descriptors_fd: int) -> bytes:
    """Where the descriptor's file is, links resolved, as seen from the root of this process."""
    try:
        return os.fsencode(os.readlink(str(fd), dir_fd=descriptors_fd))
    except OSError:  # longer than a page
        return b""


def _refuse_special(path: bytes, *, follow: bool) -> None:
    """Raises what stands in the way of opening a pipe, socket or device. Those are not opened even to look.

    Opening a FIFO would release a program of the target that waits to write into it.
    """
    mode = os.stat(path, follow_symlinks=follow).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
        return
    if stat.S_ISSOCK(mode):
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
    libc.faccessat2(path, os.R_OK, 0x200)  # AT_EACCESS: as open(2) would check
    kind = "a pipe" if stat.S_ISFIFO(mode) else "a device"
    raise Refusal(errno.EOPNOTSUPP, f"{os.fsdecode(path)} of the target is {kind}, which cannot be opened from here")


def _read_first_part(fd: int, size_bytes: int) -> tuple[bytes, bool]:
    """The content's first part and whether there may be more.

    Read until read(2) says 0, whatever the size promised: files under /proc and /sys have none, and a file may
    grow or shrink meanwhile.
    """
    parts: list[bytes] = []
    room = FIRST_PART_BYTES
    # One byte more than there is: then a read that is short of it has met the end, and the next one confirms that.
    wanted = min(size_bytes + 1, room) if size_bytes else _READ_BYTES
    while room:
        try:
            part = os.read(fd, min(wanted, room))
        except BlockingIOError:  # /proc/kmsg and its like: nothing more at present, for ever if need be
            return b"".join(parts), False
        if not part:
            return b"".join(parts), False
        parts.append(part)
        room -= len(part)
        wanted = _READ_BYTES
    return b"".join(parts), True


def _open_directory(fd: int, described: Stat, path: bytes) -> tuple[FileOpened, int | None]:
    """The first part of the encoded listing, and a memfd with the rest if there is one."""
    listing = bytearray(_ARRAY_32.size)
    count = 0
    entries = _entries(fd)
    while batch := list(itertools.islice(entries, _ENTRIES_AT_A_TIME)):
        listing += codec.encode_items(batch)
        count += len(batch)
        if len(listing) > MAX_LISTING_BYTES:
            raise Refusal(errno.EFBIG, f"the directory has more than {count} entries, too many to list from here")
    _ARRAY_32.pack_into(listing, 0, 0xDD, count)
    if len(listing) <= FIRST_PART_BYTES:
        return FileOpened(described, bytes(listing), path=path), None
    rest_fd = os.memfd_create("listing")
    with memoryview(listing) as view:
        written = FIRST_PART_BYTES
        while written < len(view):
            written += os.write(rest_fd, view[written:])
        os.lseek(rest_fd, 0, os.SEEK_SET)
        return FileOpened(described, bytes(view[:FIRST_PART_BYTES]), False, path), rest_fd


def _entries(fd: int) -> Iterator[DirectoryEntry]:
    """The directory's entries in the kernel's order; `stat` is None where lstat failed."""
    buffer = ctypes.create_string_buffer(_READ_BYTES)
    while filled := libc.getdents64(fd, buffer):
        block = buffer.raw[:filled]
        position = 0
        while position < filled:
            ino, _, length, kind = _DIRENT.unpack_from(block, position)
            start = position + _DIRENT.size
            name = block[start : block.index(b"\0", start)]
            try:
                described = attributes.of_entry(fd, name, libc.AT_SYMLINK_NOFOLLOW)
            except OSError:
                described = None
            yield DirectoryEntry(name, ino, kind, described)
            position += length


def stat_file(request: StatFile) -> FileStatted:
    """stat(2) or lstat(2)."""
    return FileStatted(attributes.of_path(request.path, follow=request.follow))


def check_access(request: CheckAccess) -> Done:
    """faccessat2(2)."""
    libc.faccessat2(request.path, request.mode, request.flags)
    return Done()


def read_link(request: ReadLink) -> LinkRead:
    """readlink(2)."""
    return LinkRead(os.readlink(request.path))


def resolve_path(request: ResolvePath) -> PathResolved:
    """realpath(3)."""
    return PathResolved(libc.realpath(request.path))


def stat_filesystem(request: StatFilesystem) -> FilesystemStatted:
    """statfs(2)."""
    kind, bsize, blocks, bfree, bavail, files, ffree, fsid_low, fsid_high, *rest = libc.statfs(request.path)
    namelen, frsize, flags = rest
    return FilesystemStatted(
        kind=kind,
        bsize=bsize,
        blocks=blocks,
        bfree=bfree,
        bavail=bavail,
        files=files,
        ffree=ffree,
        fsid=fsid_low | fsid_high << 32,
        namelen=namelen,
        frsize=frsize,
        flags=flags,
    )
