"""File operations: what the agent answers is what the target itself says."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import trio

from mirror.agent.files import FIRST_PART_BYTES
from mirror.protocol import messages as m
from mirror.protocol.stream import RequestFailed
from tests.agent.actors import IS_ROOT, NOBODY, Agent, Target, needs_root, open_agent, open_target

OTHER = 12345
"""A user that is nobody on this machine."""

PATHS = [
    "/",
    "/..",
    "/../../..",
    "/plain",
    "/./plain",
    "/sub/../plain",
    "/sub/",
    "/plain/",
    "/plain/x",
    "/missing",
    "/missing/x",
    "/empty",
    "/absolute",
    "/escape",
    "/escape-absolute",
    "/dangling",
    "/loop",
    "/loop/x",
    "/to-sub",
    "/to-sub/inner",
    "/secret",
    "/closed",
    "/closed/inside",
    "/closed/missing",
    "/group-only",
    "/owned",
    "/setuid",
    "/sticky",
    "/pipe",
    "/socket",
    "/odd \udcff\n name",
    "/" + "x" * 255,
    "/" + "x" * 256,
    "/sub/inner/deeper/../../..",
]


class Scene(NamedTuple):
    """A target with a tree of files, and an agent for it."""

    target: Target
    agent: Agent
    root: Path


def plant(root: Path) -> None:
    """Makes the tree."""
    (root / "plain").write_bytes(b"some text\n")
    os.utime(root / "plain", ns=(-1_500_000_001, 1_600_000_000_123_456_789))
    (root / "empty").touch()
    (root / "sub/inner/deeper").mkdir(parents=True)
    (root / "absolute").symlink_to("/plain")
    (root / "escape").symlink_to("../../../../../../plain")
    (root / "escape-absolute").symlink_to(root / "plain")
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    (root / "to-sub").symlink_to("sub")
    (root / "secret").write_bytes(b"secret")
    (root / "secret").chmod(0)
    (root / "closed").mkdir()
    (root / "closed/inside").touch()
    (root / "closed").chmod(0o600)
    (root / "group-only").write_bytes(b"group")
    (root / "group-only").chmod(0o040)
    (root / "owned").write_bytes(b"owned")
    (root / "owned").chmod(0o400)
    (root / "setuid").write_bytes(b"")
    (root / "setuid").chmod(0o4755)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
    (root / os.fsdecode(b"odd \xff\n name")).write_bytes(b"odd")
    (root / ("x" * 255)).touch()
    (root / "big").write_bytes(os.urandom(3 << 20))
    (root / "just-first-part").write_bytes(bytes(FIRST_PART_BYTES))
    (root / "one-byte-more").write_bytes(bytes(FIRST_PART_BYTES) + b"x")
    (root / "hang").mkdir()
    if IS_ROOT:
        os.chown(root / "group-only", 0, 777)
        os.chown(root / "owned", OTHER, OTHER)
    root.chmod(0o755)


class Kind(NamedTuple):
    """A kind of target, and who stands in for it."""

    wanted: dict[str, Any]
    agent_uid: int | None = None


KINDS = {
    # Nothing differs: no privileges are needed.
    "plain": Kind({}),
    "plain, ordinary user": Kind({"uid": NOBODY, "gid": NOBODY}, agent_uid=NOBODY),
    "other user": Kind({"root": "", "uid": OTHER, "gid": OTHER, "groups": [777]}),
    "root without capabilities": Kind({"root": "", "capabilities": 0}),
    "user with CAP_DAC_READ_SEARCH": Kind({"root": "", "unshare": True, "capabilities": 1 << 2}),
    "sandbox": Kind({"root": "", "unshare": True, "outer_uid": NOBODY}),
    "sandbox, ordinary user": Kind({"root": "", "unshare": True, "outer_uid": NOBODY}, agent_uid=NOBODY),
    "rootless container, ordinary user": Kind(
        {"root": "", "unshare": True, "outer_uid": NOBODY, "map": "range", "uid": 999, "gid": 998, "groups": [5, 6]},
        agent_uid=NOBODY,
    ),
    "rootless container with a group from outside": Kind(
        {"root": "", "unshare": True, "outer_uid": NOBODY, "outer_groups": [4321], "map": "range"}, agent_uid=NOBODY
    ),
    "sandbox of unmapped ids": Kind({"outer_uid": OTHER, "unshare": True, "map": False}),
}


@pytest.fixture
def tree() -> Iterator[Path]:
    # Not tmp_path, which other users may not enter.
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        plant(root)
        yield root
        (root / "closed").chmod(0o700)


@contextlib.asynccontextmanager
async def open_scene(kind: Kind, tree: Path) -> AsyncIterator[Scene]:
    wanted = dict(kind.wanted)
    if wanted.get("root") == "":
        wanted["root"] = str(tree)
    with open_target(**wanted) as target:
        async with open_agent(target.pid, uid=kind.agent_uid) as agent:
            yield Scene(target, agent, tree)


def paths_of(scene: Scene) -> list[str]:
    """The paths as the target sees them: with a root of its own they begin there."""
    is_jailed = scene.target.ask("os.path.exists('/just-first-part')")
    return PATHS if is_jailed else [f"{scene.root}{path}" for path in PATHS]


async def outcome(agent: Agent, request: m.Message) -> m.Message | int:
    """The answer or the errno."""
    try:
        return await agent.peer.request(request)
    except RequestFailed as failed:
        return failed.errno


def target_outcome(target: Target, code: str) -> Any:
    """The value or the errno."""
    try:
        return target.ask(code)
    except OSError as error:
        return error.errno


STAT_CODE = (
    "(lambda s: (s.st_dev, s.st_ino, s.st_mode, s.st_nlink, s.st_uid, s.st_gid, s.st_rdev, s.st_size, s.st_blksize,"
    " s.st_blocks, s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns))(os.{call}({path!r}))"
)


def numbers(described: m.Stat) -> tuple[int, ...]:
    return msgspec.structs.astuple(described)[:13]


async def compare_stat(scene: Scene) -> None:
    for path in paths_of(scene):
        for follow, call in ((True, "stat"), (False, "lstat")):
            answer = await outcome(scene.agent, m.StatFile(os.fsencode(path), follow))
            ours = numbers(answer.stat) if isinstance(answer, m.FileStatted) else answer
            assert ours == target_outcome(scene.target, STAT_CODE.format(call=call, path=path)), (path, call)


async def compare_access(scene: Scene) -> None:
    for path in paths_of(scene):
        for mode in (os.F_OK, os.R_OK, os.W_OK, os.X_OK, os.R_OK | os.X_OK):
            for flags, options in ((0, ""), (0x200, ", effective_ids=True"), (0x100, ", follow_symlinks=False")):
                answer = await outcome(scene.agent, m.CheckAccess(os.fsencode(path), mode, flags))
                told = scene.target.ask(f"os.access({path!r}, {mode}{options})")
                assert (answer == m.Done()) is told, (path, mode, options, answer)


async def compare_links(scene: Scene) -> None:
    for path in paths_of(scene):
        raw = os.fsencode(path)
        link = await outcome(scene.agent, m.ReadLink(raw))
        assert (link if isinstance(link, int) else link.content) == target_outcome(  # type: ignore[attr-defined]
            scene.target, f"os.readlink({raw!r})"
        ), path
        real = await outcome(scene.agent, m.ResolvePath(raw))
        assert (real if isinstance(real, int) else os.fsdecode(real.path)) == target_outcome(  # type: ignore[attr-defined]
            scene.target, f"c_realpath({path!r})"
        ), path


OPEN_CODE = (
    "(lambda fd: ((lambda s: (s.st_ino, s.st_mode))(os.fstat(fd)), os.close(fd))[0])(os.open({path!r}, {flags}))"
)


async def compare_opening(scene: Scene) -> None:
    for path in paths_of(scene):
        for flags in (0, os.O_NOFOLLOW, os.O_DIRECTORY):
            told = target_outcome(scene.target, OPEN_CODE.format(path=path, flags=flags | os.O_NONBLOCK))
            answer = await outcome(scene.agent, m.OpenFile(os.fsencode(path), flags))
            if path.endswith("/pipe") and isinstance(told, tuple):
                assert answer == errno.EOPNOTSUPP
            elif isinstance(told, tuple):
                assert isinstance(answer, m.FileOpened), (path, flags, answer)
                assert answer.complete
                if stat.S_ISREG(answer.stat.mode):
                    assert answer.content == scene.target.ask(f"open({path!r}, 'rb').read()")
            else:
                assert answer == told, (path, flags)


async def compare_path_handles(scene: Scene) -> None:
    for path in paths_of(scene):
        for flags in (os.O_PATH, os.O_PATH | os.O_NOFOLLOW, os.O_PATH | os.O_DIRECTORY):
            told = target_outcome(scene.target, OPEN_CODE.format(path=path, flags=flags))
            answer = await outcome(scene.agent, m.OpenFile(os.fsencode(path), flags))
            if isinstance(answer, m.FileOpened):
                assert (answer.content, answer.complete) == (b"", True)
                assert (answer.stat.ino, answer.stat.mode) == told
            else:
                assert answer == told, (path, flags)


async def compare_long_files(scene: Scene) -> None:
    prefix = "" if scene.target.ask("os.path.exists('/just-first-part')") else str(scene.root)
    for name in ("/big", "/just-first-part", "/one-byte-more"):
        opened, content = await scene.agent.read_file(os.fsencode(prefix + name))
        assert opened.complete is False or len(content) < FIRST_PART_BYTES
        assert content == (scene.root / name[1:]).read_bytes()
        assert opened.stat.size == len(content)
        assert opened.path == os.fsencode(prefix + name)


async def compare_listings(scene: Scene) -> None:
    prefix = "" if scene.target.ask("os.path.exists('/just-first-part')") else str(scene.root)
    for path in ("/", "/sub", "/to-sub/", "/closed"):
        raw = os.fsencode(prefix + path)
        told = target_outcome(scene.target, f"[(e.name, e.inode()) for e in os.scandir({raw!r})]")
        if isinstance(told, int):
            assert await outcome(scene.agent, m.OpenFile(raw, os.O_DIRECTORY)) == told
            continue
        _, content = await scene.agent.read_file(raw, flags=os.O_DIRECTORY)
        entries = msgspec.msgpack.decode(content, type=tuple[m.DirectoryEntry, ...])
        assert [(entry.name, entry.ino) for entry in entries if entry.name not in (b".", b"..")] == told
        assert {b".", b".."} < {entry.name for entry in entries} or not told
        for entry in entries:
            lstat = target_outcome(scene.target, STAT_CODE.format(call="lstat", path=raw + b"/" + entry.name))
            if entry.stat is None:
                assert isinstance(lstat, int)
            else:
                assert numbers(entry.stat) == lstat
                assert entry.kind == stat.S_IFMT(entry.stat.mode) >> 12


async def compare_statfs(scene: Scene) -> None:
    for path in paths_of(scene)[:12]:
        told = target_outcome(
            scene.target,
            f"(lambda v: (v.f_bsize, v.f_frsize, v.f_blocks, v.f_files, v.f_namemax))(os.statvfs({path!r}))",
        )
        answer = await outcome(scene.agent, m.StatFilesystem(os.fsencode(path)))
        if isinstance(answer, m.FilesystemStatted):
            assert (answer.bsize, answer.frsize, answer.blocks, answer.files, answer.namelen) == told
        else:
            assert answer == told, path


@pytest.mark.parametrize("name", KINDS if IS_ROOT else ["plain"])
async def test_everything_is_as_the_target_says(name: str, tree: Path) -> None:
    # One scene for all, since making it takes longer than using it.
    async with open_scene(KINDS[name], tree) as scene:
        assert scene.agent.welcome.reasons.keys() <= {"incoming"}
        await compare_stat(scene)
        await compare_access(scene)
        await compare_links(scene)
        await compare_opening(scene)
        await compare_path_handles(scene)
        await compare_long_files(scene)
        await compare_listings(scene)
        await compare_statfs(scene)
        assert scene.agent.notices == []


# --- what needs one kind of target only -------------------------------------------------------------------


@pytest.fixture
async def plain(tree: Path) -> AsyncIterator[Scene]:
    async with open_scene(KINDS["plain"], tree) as made:
        yield made


async def test_files_of_the_kernel_are_read_though_they_have_no_size(plain: Scene) -> None:
    opened, content = await plain.agent.read_file(b"/proc/self/maps")
    assert opened.stat.size == 0
    assert b"[stack]" in content


async def test_a_file_beyond_the_limit_is_refused_with_a_reason(plain: Scene) -> None:
    with pytest.raises(RequestFailed) as failed:
        await plain.agent.read_file(os.fsencode(plain.root / "big"), limit_bytes=1 << 20)
    assert failed.value.errno == errno.EFBIG
    assert "3145728 bytes" in failed.value.reason


async def test_writing_is_refused(plain: Scene) -> None:
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC):
        with pytest.raises(RequestFailed) as failed:
            await plain.agent.read_file(os.fsencode(plain.root / "plain"), flags=flags)
        assert failed.value.errno == errno.EROFS


async def test_a_device_is_refused_with_a_reason(plain: Scene) -> None:
    with pytest.raises(RequestFailed) as failed:
        await plain.agent.read_file(b"/dev/null")
    assert failed.value.errno == errno.EOPNOTSUPP
    assert "/dev/null" in failed.value.reason


async def test_a_path_with_a_nul_or_too_long_is_refused(plain: Scene) -> None:
    for path, number in ((b"/etc\0/x", errno.EINVAL), (b"/" + b"x/" * 2047 + b"x", errno.ENAMETOOLONG)):
        assert await outcome(plain.agent, m.StatFile(path, follow=True)) == number


async def test_opening_a_pipe_does_not_release_its_writer(plain: Scene) -> None:
    path = os.fsencode(plain.root / "pipe")
    assert await outcome(plain.agent, m.OpenFile(path, 0)) == errno.EOPNOTSUPP
    with pytest.raises(OSError, match="No such device"):  # ENXIO: nobody reads
        os.open(path, os.O_WRONLY | os.O_NONBLOCK)


@pytest.mark.parametrize("size_bytes", [1 << 20, 4 << 20])
async def test_a_file_that_changes_its_size_while_it_is_read_ends_where_it_ends(plain: Scene, size_bytes: int) -> None:
    path = plain.root / "big"
    channel = plain.agent.peer.open_channel()
    opened = await plain.agent.peer.request(m.OpenFile(os.fsencode(path), 0, channel=channel.id), m.FileOpened)
    # The agent is at most a window ahead of what has been received.
    os.truncate(path, size_bytes)
    received = len(opened.content)
    while part := await channel.receive():
        received += len(part)
    await channel.aclose()
    assert opened.stat.size == 3 << 20
    assert received == size_bytes


async def test_a_client_that_wants_no_more_of_a_file_keeps_nothing_busy(plain: Scene) -> None:
    for _ in range(100):
        channel = plain.agent.peer.open_channel()
        await plain.agent.peer.request(m.OpenFile(os.fsencode(plain.root / "big"), 0, channel=channel.id))
        channel.reset()
    _, content = await plain.agent.read_file(os.fsencode(plain.root / "big"))
    assert len(content) == 3 << 20
    opened = os.listdir(f"/proc/{plain.agent.process.pid}/fd")
    assert len(opened) < 40


async def test_a_large_directory_comes_whole(plain: Scene) -> None:
    for number in range(700):
        (plain.root / "sub" / f"{number:0200}").touch()
    opened, content = await plain.agent.read_file(os.fsencode(plain.root / "sub"))
    assert not opened.complete
    entries = msgspec.msgpack.decode(content, type=tuple[m.DirectoryEntry, ...])
    assert len(entries) == 703
    assert all(entry.stat is not None for entry in entries)


@needs_root
async def test_a_file_system_that_hangs_stops_nothing_else(tree: Path) -> None:
    kind = Kind({"root": "", "unshare": True, "hang": "hang"})
    async with open_scene(kind, tree) as scene, trio.open_nursery() as nursery:

        async def wait_for_ever() -> None:
            await outcome(scene.agent, m.StatFile(b"/hang", follow=True))

        for _ in range(100):
            nursery.start_soon(wait_for_ever)
        found = await scene.agent.peer.request(m.LookUpAddress(b"127.0.0.1", b"80", 0, socket.SOCK_STREAM, 0, 0))
        assert isinstance(found, m.AddressLookedUp)
        assert (await scene.agent.peer.request(m.ReadEnvironment(), m.EnvironmentRead)).variables
        nursery.cancel_scope.cancel()
