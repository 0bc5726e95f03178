"""The files part against a real agent's file functions, over a real connection: what comes back, and at what price."""

from __future__ import annotations

import collections
import errno
import fcntl
import os
import stat as s
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from mirror.agent import files as agent_files
from mirror.cli.proxy import contents
from mirror.cli.proxy.agent import tell_nobody
from mirror.cli.proxy.files import Files
from mirror.cli.proxy.layers import LayerConnection, Reply
from mirror.cli.proxy.uplink import Uplink
from mirror.cli.settings import Settings
from mirror.protocol import messages as m
from mirror.protocol.stream import Channel, Peer, RequestFailed
from tests.cli.proxy import network


class Bench:
    """A `Files` with everything around it.

    Attributes:
        files: The part.
        session: Its session.
        access: How it reaches the agent, which is this object.
        peer: The proxy, as the agent sees it.
        held: If set, the agent waits for it before it answers.
        told: The sentences that came with errors.
    """

    def __init__(self, nursery: trio.Nursery, settings: Settings) -> None:
        self.held: trio.Event | None = None
        self._nursery = nursery
        self._descriptors = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
        self.peer: Peer
        self.access = network.Access(self, nursery)
        self.session = network.Session(settings, nursery)
        self.files = Files(self.session)
        self.handlers = self.files.handlers()
        self.told: list[str] = []
        self._closing: list[int] = [self._descriptors]

    async def start(self) -> None:
        uplink = Uplink(self.session, self.access, self._hear, self._settle, "wait")  # type: ignore[arg-type]
        self.session.uplink = uplink
        await uplink.begin(tell_nobody)
        self._nursery.start_soon(uplink.keep)
        await self._nursery.start(self.files.run)

    def close(self) -> None:
        for fd in self._closing:
            os.close(fd)

    async def _hear(self, message: m.Message, _: Peer) -> m.Message | None:
        raise AssertionError(message)

    async def _settle(self, *_: object) -> None:
        pass

    async def handle(self, message: m.Message) -> m.Message:
        """Answers as an agent."""
        if self.held is not None:
            await self.held.wait()
        try:
            match message:
                case m.OpenFile():
                    return self._open(message)
                case m.StatFile():
                    return agent_files.stat_file(message)
                case m.CheckAccess():
                    return agent_files.check_access(message)
                case m.ReadLink():
                    return agent_files.read_link(message)
                case m.ResolvePath():
                    return agent_files.resolve_path(message)
                case m.StatFilesystem():
                    return agent_files.stat_filesystem(message)
        except agent_files.Refusal as error:
            raise RequestFailed(error.errno or errno.EIO, error.strerror or "") from None
        except OSError as error:
            raise RequestFailed(error.errno or errno.EIO) from None
        raise AssertionError(message)

    def _open(self, message: m.OpenFile) -> m.FileOpened:
        opened, rest = agent_files.open_file(message, self._descriptors)
        if rest is not None:
            self._nursery.start_soon(self._send, rest, self.peer.accept_channel(message.channel))
        return opened

    async def _send(self, fd: int, channel: Channel) -> None:
        while part := os.read(fd, 50_000):
            await channel.send(part)
        os.close(fd)
        await channel.send_eof()
        channel.close()

    # --- a layer's side -----------------------------------------------------------------------------------

    async def ask(self, message: m.Message) -> Reply:
        """The reply, descriptors included, which are closed in the end."""
        layer: LayerConnection = None  # type: ignore[assignment]  # nothing here looks at who asks
        reply = await self.handlers[type(message)](layer, message, [])
        assert reply is not None
        if reply.close:
            self._closing += reply.fds
        return reply

    async def open(self, path: os.PathLike[str] | str, flags: int = 0) -> tuple[m.FileOpened, int]:
        reply = await self.ask(m.OpenFile(os.fsencode(path), flags))
        assert isinstance(reply.message, m.FileOpened), reply.message
        (fd,) = reply.fds
        return reply.message, fd

    async def stat(self, path: os.PathLike[str] | str, follow: bool = True) -> m.Stat:
        reply = await self.ask(m.StatFile(os.fsencode(path), follow))
        assert isinstance(reply.message, m.FileStatted)
        return reply.message.stat

    async def list(self, fd: int) -> list[str]:
        own = os.fstat(fd)
        reply = await self.ask(m.ListDirectory(own.st_dev, own.st_ino))
        assert isinstance(reply.message, m.DirectoryListed)
        entries = reply.message.entries
        if reply.fds:
            entries = msgspec.msgpack.decode(os.pread(reply.fds[0], 1 << 30, 0), type=tuple[m.DirectoryEntry, ...])
        return sorted(os.fsdecode(entry.name) for entry in entries)

    @property
    def trips(self) -> int:
        """Round trips to the agent so far."""
        return sum(self.session.uplink.requests_sent.values())


@pytest.fixture
def settings() -> Settings:
    return Settings("pid/1", file_limit_bytes=1 << 20, lease_s=100.0)


@pytest.fixture
async def bench(settings: Settings) -> AsyncIterator[Bench]:
    async with trio.open_nursery() as nursery:
        bench = Bench(nursery, settings)
        try:
            await bench.start()
            yield bench
        finally:
            bench.close()
            nursery.cancel_scope.cancel()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"x" * 1024)
    (tmp_path / "big").write_bytes(bytes(range(256)) * 3000)
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "sub").mkdir()
    for number in range(100):
        (tmp_path / "sub" / f"entry{number}").write_text(str(number))
    os.utime(tmp_path / "file", ns=(1_234_567_890_123_456_789, -1_234_567_891))
    return tmp_path


async def failure(bench: Bench, message: m.Message) -> int:
    try:
        reply = await bench.ask(message)
    except RequestFailed as error:
        bench.told += [error.reason] if error.reason else []
        return error.errno
    assert isinstance(reply.message, m.Failed)
    return reply.message.errno


async def test_open_fstat_read_and_close_is_one_round_trip_and_then_none(bench: Bench, folder: Path) -> None:
    for expected in (1, 1):
        opened, fd = await bench.open(folder / "file")
        assert os.read(fd, 2000) == b"x" * 1024
        own = os.fstat(fd)
        identified = (await bench.ask(m.IdentifyDescriptor(own.st_dev, own.st_ino))).message
        assert identified == m.DescriptorIdentified(os.fsencode(folder / "file"), opened.stat)
        assert bench.trips == expected
    assert opened.stat.mtime_ns == -1_234_567_891


async def test_stat_is_one_round_trip_and_then_none(bench: Bench, folder: Path) -> None:
    for _ in range(2):
        described = await bench.stat(folder / "file")
        assert described.ino == (folder / "file").stat().st_ino
        assert bench.trips == 1


async def test_a_listing_brings_the_attributes_of_its_entries(bench: Bench, folder: Path) -> None:
    _, fd = await bench.open(folder / "sub", contents.O_DIRECTORY)
    names = await bench.list(fd)
    assert len(names) == 102
    for name in names:
        described = await bench.stat(f"{folder}/sub/{name}", follow=False)
        assert described.ino == os.lstat(folder / "sub" / name).st_ino
    assert await failure(bench, m.StatFile(os.fsencode(folder / "sub" / "nothing"), True)) == errno.ENOENT
    assert await failure(bench, m.OpenFile(os.fsencode(folder / "sub" / "nothing"), 0)) == errno.ENOENT
    assert bench.trips == 1


async def test_who_is_slow_to_go_through_a_directory_pays_little_more(
    bench: Bench, folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    _, fd = await bench.open(folder / "sub", contents.O_DIRECTORY)
    for number, name in enumerate(await bench.list(fd)):
        await bench.stat(f"{folder}/sub/{name}", follow=False)
        await trio.sleep(100 if number == 50 else 0)
    assert bench.trips == 3


async def test_absences_are_remembered(bench: Bench, folder: Path) -> None:
    absent = os.fsencode(folder / "none")
    below = os.fsencode(folder / "none" / "deep")
    for _ in range(2):
        assert await failure(bench, m.StatFile(absent, True)) == errno.ENOENT
        assert await failure(bench, m.StatFile(below, False)) == errno.ENOENT
        assert await failure(bench, m.CheckAccess(absent, os.R_OK)) == errno.ENOENT
        assert await failure(bench, m.OpenFile(below, 0)) == errno.ENOENT
        assert await failure(bench, m.ReadLink(below)) == errno.ENOENT
    assert bench.trips == 1


async def test_after_the_lease_the_target_is_asked_again(
    bench: Bench, folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    await bench.open(folder / "file")
    (folder / "file").write_bytes(b"new")
    await trio.sleep(100)
    opened, fd = await bench.open(folder / "file")
    assert os.read(fd, 100) == b"new"
    assert (opened.stat.size, bench.trips) == (3, 2)


async def test_a_long_content_comes_whole(bench: Bench, folder: Path) -> None:
    _, fd = await bench.open(folder / "big")
    assert os.pread(fd, 1 << 20, 0) == bytes(range(256)) * 3000
    assert bench.trips == 1


async def test_what_is_too_large_is_refused_with_a_sentence(bench: Bench, folder: Path) -> None:
    (folder / "huge").write_bytes(b"x" * ((1 << 20) + 1))
    for _ in range(2):
        assert await failure(bench, m.OpenFile(os.fsencode(folder / "huge"), 0)) == errno.EFBIG
    assert bench.trips == 1
    assert bench.told == [
        f"{folder}/huge of the target is larger than 1 MiB and cannot be opened here; --file-limit allows more"
    ]


async def test_a_pipe_is_refused_with_a_sentence(bench: Bench, folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    assert await failure(bench, m.OpenFile(os.fsencode(folder / "fifo"), 0)) == errno.EOPNOTSUPP
    assert len(bench.told) == 1
    assert "fifo" in bench.told[0]
    _, fd = await bench.open(folder / "fifo", contents.O_PATH)
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC])
async def test_nothing_is_written(bench: Bench, folder: Path, flags: int) -> None:
    assert await failure(bench, m.OpenFile(os.fsencode(folder / "file"), flags)) == errno.EROFS
    assert bench.trips == 0


async def test_many_who_ask_the_same_at_once_share_one_round_trip(bench: Bench, folder: Path) -> None:
    bench.held = trio.Event()
    read: list[bytes] = []

    async def client() -> None:
        _, fd = await bench.open(folder / "file")
        read.append(os.read(fd, 1))
        await bench.stat(folder / "link")

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(client)
        await trio.testing.wait_all_tasks_blocked()
        bench.held.set()
    assert read == [b"x"] * 20
    assert bench.trips == 2


async def test_links(bench: Bench, folder: Path) -> None:
    link = os.fsencode(folder / "link")
    for _ in range(2):
        assert (await bench.ask(m.ReadLink(link))).message == m.LinkRead(b"file")
        assert (await bench.ask(m.ResolvePath(link))).message == m.PathResolved(os.fsencode(folder / "file"))
        assert await failure(bench, m.ReadLink(os.fsencode(folder / "file"))) == errno.EINVAL
    assert bench.trips == 3
    assert s.S_ISLNK((await bench.stat(folder / "link", follow=False)).mode)
    assert await failure(bench, m.OpenFile(link, contents.O_NOFOLLOW)) == errno.ELOOP
    opened, _ = await bench.open(folder / "link", contents.O_NOFOLLOW | contents.O_PATH)
    assert s.S_ISLNK(opened.stat.mode)


async def test_a_file_opened_by_a_link_is_known_by_its_own_name(bench: Bench, folder: Path) -> None:
    opened, _ = await bench.open(folder / "link")
    assert opened.path == os.fsencode(folder / "file")
    assert not s.S_ISLNK((await bench.stat(folder / "file", follow=False)).mode)
    await bench.open(folder / "file", contents.O_NOFOLLOW)
    assert (await bench.ask(m.ResolvePath(os.fsencode(folder / "link")))).message == m.PathResolved(opened.path)
    assert bench.trips == 1


async def test_a_file_is_no_directory(bench: Bench, folder: Path) -> None:
    for _ in range(2):
        assert await failure(bench, m.OpenFile(os.fsencode(folder / "file"), contents.O_DIRECTORY)) == errno.ENOTDIR
    assert bench.trips == 1
    await bench.open(folder / "file")
    assert await failure(bench, m.StatFile(os.fsencode(folder / "file" / "x"), True)) == errno.ENOTDIR
    assert bench.trips == 2


async def test_directories_have_one_identity_each(bench: Bench, folder: Path) -> None:
    _, one = await bench.open(folder / "sub")
    _, other = await bench.open(f"{folder}/./sub/", contents.O_DIRECTORY | contents.O_PATH)
    _, parent = await bench.open(folder, contents.O_DIRECTORY)
    assert os.path.samestat(os.fstat(one), os.fstat(other))
    assert not os.path.samestat(os.fstat(one), os.fstat(parent))


async def test_what_is_not_ours_is_not_known(bench: Bench, folder: Path) -> None:
    own = os.stat(folder)
    assert await failure(bench, m.IdentifyDescriptor(own.st_dev, own.st_ino)) == errno.ENOENT
    assert await failure(bench, m.ListDirectory(own.st_dev, own.st_ino)) == errno.ENOENT


async def test_a_very_long_listing_comes_in_a_file(bench: Bench, tmp_path: Path) -> None:
    names = [f"{number:0200}" for number in range(3000)]
    for name in names:
        (tmp_path / name).touch()
    _, fd = await bench.open(tmp_path, contents.O_DIRECTORY)
    assert await bench.list(fd) == [".", "..", *names]
    assert bench.trips == 1


async def test_access_and_file_systems_are_asked_for_once(bench: Bench, folder: Path) -> None:
    path = os.fsencode(folder / "file")
    for _ in range(2):
        assert (await bench.ask(m.CheckAccess(path, os.R_OK))).message == m.Done()
        statted = (await bench.ask(m.StatFilesystem(path))).message
        assert isinstance(statted, m.FilesystemStatted)
        assert statted.bsize == os.statvfs(folder).f_bsize
    assert bench.session.uplink.requests_sent == collections.Counter(CheckAccess=1, StatFilesystem=1)


@pytest.mark.parametrize("settings", [Settings("pid/1", lease_s=0.0)])
async def test_without_a_lease_everything_works_and_is_asked_each_time(bench: Bench, folder: Path) -> None:
    for expected in (1, 2):
        _, fd = await bench.open(folder / "file")
        assert os.read(fd, 10) == b"x" * 10
        assert bench.trips == expected
    _, fd = await bench.open(folder / "sub")
    assert len(await bench.list(fd)) == 102
