"""Answers the layers' questions on files, with descriptors of this machine's kernel.

    layer ── OpenFile ──▶ TargetFiles (known, or one round trip)
      ◀── a descriptor ── sealed memfd (file) or placeholder (directory), opened anew for each open

The program's own kernel does the rest: read, mmap, dup, fork, exec, passing on. Whatever hooked process meets such a
descriptor later may ask what it stands for, by its numbers. See `contents`, `directories`, `identities`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat as s
from collections.abc import Mapping

import trio

from mirror.cli.proxy import contents
from mirror.cli.proxy.contents import Content, reopen
from mirror.cli.proxy.directories import Placeholders
from mirror.cli.proxy.identities import Identities, Identity, Numbers
from mirror.cli.proxy.layers import Handler, LayerConnection, Reply
from mirror.cli.proxy.target_files import FileSession, Opened, TargetFiles
from mirror.protocol import codec
from mirror.protocol.messages import (
    CheckAccess,
    DescriptorIdentified,
    DirectoryEntry,
    DirectoryListed,
    Done,
    Failed,
    FileOpened,
    FileStatted,
    IdentifyDescriptor,
    LinkRead,
    ListDirectory,
    Message,
    OpenFile,
    PathResolved,
    ReadLink,
    ResolvePath,
    StatFile,
    StatFilesystem,
)
from mirror.protocol.stream import RequestFailed

LISTING_IN_FRAME_BYTES = 512 << 10
"""Larger listings go to the layer in a file."""

_WRITING = 0o3 | 0o100 | 0o1000
"""O_ACCMODE, O_CREAT, O_TRUNC."""


class Files:
    """The session's part for files.

    Args:
        session: Gives the agent and the settings.
    """

    def __init__(self, session: FileSession) -> None:
        self._lease_s = session.settings.lease_s
        self._target = TargetFiles(session)
        self._placeholders = Placeholders()
        self._identities = Identities()

    def handlers(self) -> Mapping[type[Message], Handler]:
        """By the kind of message."""
        return {
            OpenFile: self._open_file,
            ListDirectory: self._list_directory,
            IdentifyDescriptor: self._identify_descriptor,
            StatFile: self._stat_file,
            CheckAccess: self._check_access,
            ReadLink: self._read_link,
            ResolvePath: self._resolve_path,
            StatFilesystem: self._stat_filesystem,
        }

    def forget(self) -> None:
        """See `TargetFiles.forget`. Descriptors that programs have stay what they are."""
        self._target.forget()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Gives back the memory of contents whose lease is over, until cancelled; then all of it."""
        # Each content and each placeholder is a descriptor: the soft limit is for programs that use select(2).
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        try:
            task_status.started()
            while True:
                await trio.sleep(max(self._lease_s, 0.5))
                self._target.expire()
        finally:
            self._target.close()
            self._placeholders.close()

    # --- descriptors --------------------------------------------------------------------------------------

    async def _open_file(self, layer: LayerConnection, message: OpenFile, fds: list[int]) -> Reply:
        if message.flags & _WRITING and not message.flags & contents.O_PATH:
            return Reply(Failed(errno.EROFS))
        opened = await self._target.open(message.path, message.flags)
        try:
            return self._give(opened, message.flags)
        except OSError as error:  # no descriptors left, no memory left
            raise RequestFailed(error.errno or errno.EIO) from None

    def _give(self, opened: Opened, flags: int) -> Reply:
        """A descriptor of its own for a program."""
        if s.S_ISDIR(opened.stat.mode):
            own_fd, numbers = self._placeholders.of(opened.real)
        else:
            content = opened.content
            if content is None:  # O_PATH: a name and attributes, no bytes
                content = Content(opened.real, opened.stat)
                content.seal()
            own_fd, numbers = content.fd, content.numbers
        self._identities.put(numbers, Identity(opened.real, opened.stat))
        fd = reopen(own_fd, flags)
        return Reply(FileOpened(opened.stat, path=opened.real), (fd,), close=True)

    def _identity(self, message: IdentifyDescriptor | ListDirectory) -> Identity:
        numbers: Numbers = (message.dev, message.ino)
        identity = self._identities.get(numbers)
        if identity is None:
            raise RequestFailed(errno.ENOENT)
        return identity

    async def _identify_descriptor(self, layer: LayerConnection, message: IdentifyDescriptor, fds: list[int]) -> Reply:
        identity = self._identity(message)
        return Reply(DescriptorIdentified(identity.path, identity.stat))

    async def _list_directory(self, layer: LayerConnection, message: ListDirectory, fds: list[int]) -> Reply:
        opened = await self._target.open(self._identity(message).path, contents.O_DIRECTORY)
        entries = opened.listing.entries if opened.listing is not None else ()
        brief = tuple(DirectoryEntry(entry.name, entry.ino, entry.kind) for entry in entries)
        if sum(len(entry.name) + 16 for entry in brief) <= LISTING_IN_FRAME_BYTES:
            return Reply(DirectoryListed(brief))
        return Reply(DirectoryListed(()), (_file_of(codec.encode_array(brief)),), close=True)

    # --- attributes and links -----------------------------------------------------------------------------

    async def _stat_file(self, layer: LayerConnection, message: StatFile, fds: list[int]) -> Reply:
        return Reply(FileStatted(await self._target.stat(message.path, follow=message.follow)))

    async def _check_access(self, layer: LayerConnection, message: CheckAccess, fds: list[int]) -> Reply:
        await self._target.check_access(message.path, message.mode, message.flags)
        return Reply(Done())

    async def _read_link(self, layer: LayerConnection, message: ReadLink, fds: list[int]) -> Reply:
        return Reply(LinkRead(await self._target.read_link(message.path)))

    async def _resolve_path(self, layer: LayerConnection, message: ResolvePath, fds: list[int]) -> Reply:
        return Reply(PathResolved(await self._target.resolve(message.path)))

    async def _stat_filesystem(self, layer: LayerConnection, message: StatFilesystem, fds: list[int]) -> Reply:
        return Reply(await self._target.stat_filesystem(message.path))


def _file_of(data: bytes) -> int:
    """A memfd with these bytes, for the layer itself."""
    fd = os.memfd_create("listing", os.MFD_CLOEXEC)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
    return fd
