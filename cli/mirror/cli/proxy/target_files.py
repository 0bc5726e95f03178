"""The target's files as the session sees them: from what is known, or with one round trip to the agent.

What an answer says, and what follows from it, is kept in `cache`; contents for the same lease here. A question that is
under way is not asked twice (`flights`). Descriptors for programs are made in `files`. Nothing writes to the target.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as s
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from mirror.cli.proxy import contents
from mirror.cli.proxy.cache import FileCache, Known, Listing, normal, split
from mirror.cli.proxy.contents import Content
from mirror.cli.proxy.flights import Flights
from mirror.cli.proxy.lease import LeaseMap
from mirror.protocol import codec
from mirror.protocol.messages import (
    CheckAccess,
    DirectoryEntry,
    Done,
    FileOpened,
    FileStatted,
    FilesystemStatted,
    LinkRead,
    Message,
    OpenFile,
    PathResolved,
    ReadLink,
    ResolvePath,
    Stat,
    StatFile,
    StatFilesystem,
)
from mirror.protocol.stream import Channel, ChannelReset, Peer, RequestFailed

if TYPE_CHECKING:
    from mirror.cli.proxy.uplink import Uplink
    from mirror.cli.settings import Settings

MOST_CONTENTS = 1024
MOST_CONTENT_BYTES = 256 << 20
"""Of contents that are kept for a later open; what programs hold open comes on top."""

FINDING_FLAGS = contents.O_PATH | contents.O_DIRECTORY | contents.O_NOFOLLOW | contents.O_NOATIME
"""The flags of open(2) that decide what is opened, or whether."""

_AT_SYMLINK_NOFOLLOW = 0x100
_F_OK = 0

_SHOWN_BYTES = 256
"""Of a path in a sentence: the layer shows what fits into half a kilobyte."""
_MOST_TOLD = 1000

_M = TypeVar("_M", bound=Message)


class FileSession(Protocol):
    """What files need of a session."""

    @property
    def uplink(self) -> Uplink:
        """The connection to the agent."""
        ...

    @property
    def settings(self) -> Settings:
        """What the user asked for."""
        ...


class Opened:
    """What the target's kernel opened.

    Attributes:
        stat: As fstat says.
        real: Where it really is.
        content: Of a regular file; None for anything else, and where O_PATH was asked for.
        listing: Of a directory, likewise.
    """

    def __init__(self, stat: Stat, real: bytes, content: Content | None = None, listing: Listing | None = None) -> None:
        self.stat = stat
        self.real = real
        self.content = content
        self.listing = listing


class TargetFiles:
    """Asks the target as little as possible.

    All methods take absolute paths as the program gave them, and raise RequestFailed with the errno that the target's
    kernel has or would have given. Where that does not say it all it has a sentence, which the layer shows to the user
    before the call returns; each sentence comes only once in a session.

    Args:
        session: Gives the agent and the settings.
    """

    def __init__(self, session: FileSession) -> None:
        settings = session.settings
        self._session = session
        self._limit_bytes = settings.file_limit_bytes
        self._cache = FileCache(settings.lease_s, trio.current_time)
        self._contents: LeaseMap[bytes, Content] = LeaseMap(
            settings.lease_s,
            trio.current_time,
            MOST_CONTENTS,
            most_bytes=MOST_CONTENT_BYTES,
            weigh=lambda content: content.size_bytes,
        )
        self._flights = Flights()
        self._told: dict[str, None] = {}

    def expire(self) -> None:
        """Gives back the memory of contents whose lease is over."""
        self._contents.expire()

    def forget(self) -> None:
        """Whatever is known was said by an agent that may have stood in for somebody else."""
        self._cache.clear()
        self._contents.clear()

    def close(self) -> None:
        """Gives back all memory of contents."""
        self._contents.clear()

    # --- open ---------------------------------------------------------------------------------------------

    async def open(self, path: bytes, flags: int) -> Opened:
        """Opens for reading.

        Args:
            path: Of a file or directory.
            flags: Of open(2), with the values of the layer's link.
        """
        path, finding = normal(path), flags & FINDING_FLAGS
        opened = self._open_known(path, finding)
        if opened is None:
            opened = await self._flights.share(
                ("open", path, finding),
                lambda: self._session.uplink.call(lambda peer: self._fetch(peer, path, finding)),
            )
        return opened

    def _open_known(self, path: bytes, finding: int) -> Opened | None:
        """From what is known; None: the target must be asked."""
        self._raise_known(OpenFile(path, finding))
        known = self._cache.look_up(path, follow=not finding & contents.O_NOFOLLOW)
        if known is None:
            return None
        if known.stat is None:
            raise RequestFailed(known.errno)
        real = self._cache.real(path)
        if real is None or s.S_ISLNK(known.stat.mode) or finding & contents.O_NOATIME:
            return None
        if s.S_ISDIR(known.stat.mode):
            listing = self._cache.listing(real)
            is_enough = listing is not None or finding & contents.O_PATH
            return Opened(known.stat, real, None, listing) if is_enough else None
        if finding & contents.O_DIRECTORY:
            raise RequestFailed(errno.ENOTDIR)
        if finding & contents.O_PATH:
            return Opened(known.stat, real)
        content = self._contents.get(real)
        return None if content is None else Opened(content.stat, real, content)

    async def _fetch(self, peer: Peer, path: bytes, finding: int) -> Opened:
        """Opens in the target, and remembers all that this tells."""
        key = OpenFile(path, finding)
        began = trio.current_time()
        channel = peer.open_channel()
        try:
            request = OpenFile(path, finding, 0, self._limit_bytes, channel.id)
            answer = await self._ask(request, FileOpened, key, peer)
            opened = Opened(answer.stat, answer.path if answer.path.startswith(b"/") else path)
            if finding & contents.O_PATH:
                pass
            elif s.S_ISDIR(answer.stat.mode):
                parts = [part async for part in _parts(answer, channel)]
                opened.listing = Listing(codec.decode_array(parts, list[DirectoryEntry]))
            else:
                opened.content = await self._store(opened.real, answer, channel, key)
        except ChannelReset as reset:
            raise self._refused(RequestFailed(reset.errno or errno.EIO), key) from None
        except codec.Malformed as malformed:
            reason = f"the agent's listing of {os.fsdecode(path[-_SHOWN_BYTES:])} is malformed: {malformed}"
            raise self._refused(RequestFailed(errno.EIO, reason), key) from None
        except OSError as error:  # no memory for the content, or no descriptor
            raise RequestFailed(error.errno or errno.EIO) from None
        finally:
            channel.close()
        self._learn_opened(path, finding, opened, trio.current_time() - began)
        return opened

    async def _store(self, real: bytes, answer: FileOpened, channel: Channel, key: OpenFile) -> Content:
        content = Content(real, answer.stat)
        async for part in _parts(answer, channel):
            content.write(part)
            if content.size_bytes > self._limit_bytes:  # it is larger than its size said
                raise self._refused(RequestFailed(errno.EFBIG), key)
        content.seal()
        return content

    def _learn_opened(self, path: bytes, finding: int, opened: Opened, took_s: float) -> None:
        follow = not finding & contents.O_NOFOLLOW
        self._cache.learn(path, Known(opened.stat), follow=follow)
        if s.S_ISLNK(opened.stat.mode):
            return
        # No component of the real path is a link, so that lstat says the same.
        self._cache.learn(opened.real, Known(opened.stat), follow=False)
        self._cache.learn_real(path, opened.real)
        if opened.listing is not None:
            for name in {path, opened.real}:
                self._cache.learn_listing(name, opened.listing, took_s)
        if opened.content is not None:
            self._contents.put(opened.real, opened.content)

    # --- attributes ---------------------------------------------------------------------------------------

    async def stat(self, path: bytes, *, follow: bool) -> Stat:
        """The attributes; of a link itself unless `follow`."""
        path = normal(path)
        known = self._cache.look_up(path, follow=follow)
        if known is None and self._cache.should_list(path):
            with contextlib.suppress(RequestFailed):
                await self.open(split(path)[0], contents.O_DIRECTORY)
            known = self._cache.look_up(path, follow=follow)
        if known is None:
            return await self._flights.share(("stat", path, follow), lambda: self._fetch_stat(path, follow))
        if known.stat is None:
            raise RequestFailed(known.errno)
        return known.stat

    async def _fetch_stat(self, path: bytes, follow: bool) -> Stat:
        request = StatFile(path, follow)
        try:
            answer = await self._ask(request, FileStatted, request)
        except RequestFailed as error:
            self._cache.learn(path, Known(None, error.errno), follow=follow)
            raise
        self._cache.learn(path, Known(answer.stat), follow=follow)
        return answer.stat

    async def check_access(self, path: bytes, mode: int, flags: int) -> None:
        """As faccessat2(2)."""
        if mode == _F_OK:
            await self.stat(path, follow=not flags & _AT_SYMLINK_NOFOLLOW)
        else:
            await self._answer(CheckAccess(normal(path), mode, flags), Done)

    async def stat_filesystem(self, path: bytes) -> FilesystemStatted:
        """As statfs(2)."""
        return await self._answer(StatFilesystem(normal(path)), FilesystemStatted)

    # --- links --------------------------------------------------------------------------------------------

    async def read_link(self, path: bytes) -> bytes:
        """As readlink(2)."""
        path = normal(path)
        known = self._cache.look_up(path, follow=False)
        if known is not None and known.stat is not None and not s.S_ISLNK(known.stat.mode):
            raise RequestFailed(errno.EINVAL)
        return (await self._answer(ReadLink(path), LinkRead)).content

    async def resolve(self, path: bytes) -> bytes:
        """As realpath(3)."""
        path = normal(path)
        real = self._cache.real(path)
        if real is None:
            real = (await self._answer(ResolvePath(path), PathResolved)).path
            self._cache.learn_real(path, real)
        return real

    # --- asking -------------------------------------------------------------------------------------------

    async def _answer(self, request: CheckAccess | ReadLink | ResolvePath | StatFilesystem, kind: type[_M]) -> _M:
        """The answer to a request, known or asked for."""
        self._raise_known(request)
        known = self._cache.answer(request)
        if isinstance(known, kind):
            return known
        absent = self._cache.look_up(request.path, follow=not isinstance(request, ReadLink))
        if absent is not None and absent.stat is None:
            raise RequestFailed(absent.errno)
        answer = await self._flights.share(request, lambda: self._ask(request, kind, request))
        self._cache.learn_answer(request, answer)
        return answer

    def _raise_known(self, request: Message) -> None:
        known = self._cache.answer(request)
        if isinstance(known, int):
            raise RequestFailed(known)

    async def _ask(self, request: Message, kind: type[_M], key: Message, peer: Peer | None = None) -> _M:
        """One round trip, by whatever connection there is if none is given. What is refused is kept under `key`."""
        try:
            return await (peer or self._session.uplink).request(request, kind)
        except RequestFailed as error:
            raise self._refused(error, key) from None

    def _refused(self, error: RequestFailed, key: Message) -> RequestFailed:
        self._cache.learn_answer(key, error.errno)
        sentence = error.reason
        if error.errno == errno.EFBIG and isinstance(key, OpenFile):
            sentence = (
                f"{os.fsdecode(key.path[-_SHOWN_BYTES:])} of the target is larger than {_size(self._limit_bytes)} "
                "and cannot be opened here; --file-limit allows more"
            )
        if sentence in self._told:
            sentence = ""
        elif sentence:
            self._told[sentence] = None
            if len(self._told) > _MOST_TOLD:
                del self._told[next(iter(self._told))]
        return RequestFailed(error.errno, sentence)


def _size(size_bytes: int) -> str:
    return f"{size_bytes >> 20} MiB" if size_bytes >= 1 << 20 else f"{size_bytes} bytes"


async def _parts(answer: FileOpened, channel: Channel) -> AsyncIterator[bytes]:
    """The content, from the answer and then from the channel."""
    yield answer.content
    while not answer.complete:
        part = await channel.receive()
        if not part:
            return
        yield part
