"""The server for hooked processes, with real sockets and processes; the other side is Python instead of the layer."""

from __future__ import annotations

import array
import errno
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence

import pytest
import trio

from mirror.cli.proxy.layers import Handler, LayerConnection, Layers, Process, Reply
from mirror.cli.proxy.lifeline import Lifelines
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.frame import Frame, FrameReader, encode_frame
from mirror.protocol.messages import (
    CheckAccess,
    Connect,
    Done,
    Failed,
    LayerMessage,
    LinkRead,
    ListenerClosed,
    Message,
    ReadLink,
    Register,
    SocketAddress,
    StatFile,
)
from mirror.protocol.stream import RequestFailed

WITHIN_S = 30.0
"""Bounds a wait on a busy machine."""
REGISTER = Register(version=1, pid=os.getpid(), cause="exec", lifeline_port=0, program=b"/bin/test")
SOMEWHERE = SocketAddress(b"\x7f\0\0\1", 80)


class Server:
    """A server whose handlers note what comes."""

    def __init__(self) -> None:
        self.lifelines = Lifelines()
        self.noted: list[Message] = []
        self.layers = Layers(self.lifelines.held, self.lifelines.is_held_by)
        self.layers.add_handlers(
            {Register: self.register, ReadLink: self.read_link, Connect: self.note, CheckAccess: self.fail}
        )

    async def register(self, layer: LayerConnection, message: Register, fds: list[int]) -> Reply:
        assert not fds
        layer.is_registered = True
        return Reply(Done())

    async def note(self, layer: LayerConnection, message: Message, fds: list[int]) -> None:
        self.noted.append(message)
        for fd in fds:
            os.write(fd, b"received")
            os.close(fd)

    async def read_link(self, layer: LayerConnection, message: ReadLink, fds: list[int]) -> Reply:
        assert layer.pid == layer.process.pid == os.getpid()
        read, write = os.pipe()
        os.write(write, message.path)
        os.close(write)
        return Reply(LinkRead(message.path), [read], close=True)

    async def fail(self, layer: LayerConnection, message: CheckAccess, fds: list[int]) -> Reply:
        match message.mode:
            case 0:
                raise RequestFailed(errno.EACCES, "not for you")
            case 1:
                raise ConnectionLost("gone")
            case _:
                raise ValueError("a mistake of ours")


class Caller:
    """What the layer does, in Python."""

    def __init__(self, address: str) -> None:
        self._socket = trio.socket.from_stdlib_socket(socket.socket(socket.AF_UNIX))
        self._address = address
        self._reader = FrameReader(LayerMessage)

    async def connect(self) -> Caller:
        await self._socket.connect("\0" + self._address)
        return self

    async def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = await self._socket.sendmsg([data], extra)
        assert sent == len(data)

    async def receive(self) -> Frame | None:
        """The next answer; None at the end."""
        with trio.fail_after(WITHIN_S):
            while (frame := self._reader.next_frame()) is None:
                data, extra, _, _ = await self._socket.recvmsg(65536, 256)
                if not data:
                    return None
                fds = array.array("i")
                for _, _, content in extra:
                    fds.frombytes(content)
                self._reader.feed(data, fds)
            return frame

    async def ask(self, message: Message, fds: Sequence[int] = ()) -> Message:
        await self.send(encode_frame(7, message), fds)
        frame = await self.receive()
        assert frame is not None
        assert frame.request_id == -7
        return frame.message

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
async def server(nursery: trio.Nursery) -> Server:
    server = Server()
    await nursery.start(server.layers.listen)
    return server


@pytest.fixture
async def caller(server: Server) -> AsyncIterator[Caller]:
    caller = await Caller(server.layers.address).connect()
    assert await caller.ask(REGISTER) == Done()
    yield caller
    caller.close()


async def test_descriptor_comes_with_the_answer(caller: Caller) -> None:
    await caller.send(encode_frame(3, ReadLink(b"/a")))
    frame = await caller.receive()
    assert frame is not None
    assert (frame.request_id, frame.message) == (-3, LinkRead(b"/a"))
    (fd,) = frame.descriptors
    assert os.read(fd, 9) == b"/a"
    os.close(fd)


async def test_notification_with_a_descriptor_before_a_request(server: Server, caller: Caller) -> None:
    read, write = os.pipe()
    connect = Connect(0, SOMEWHERE)
    await caller.send(encode_frame(0, connect), [write])
    os.close(write)
    assert await caller.ask(REGISTER) == Done()
    assert server.noted == [connect]
    assert os.read(read, 99) == b"received"
    assert os.read(read, 99) == b""
    os.close(read)


async def test_several_frames_in_one_piece(caller: Caller) -> None:
    await caller.send(b"".join(encode_frame(number, REGISTER) for number in (1, 2, 3)))
    assert [frame.request_id for frame in [await caller.receive() for _ in range(3)] if frame] == [-1, -2, -3]


async def test_frame_in_many_pieces(caller: Caller) -> None:
    for byte in encode_frame(9, REGISTER):
        await caller.send(bytes([byte]))
    frame = await caller.receive()
    assert frame is not None
    assert frame.request_id == -9


async def test_what_nobody_handles(caller: Caller) -> None:
    answer = await caller.ask(StatFile(b"/", follow=True))
    assert isinstance(answer, Failed)
    assert answer.errno == errno.ENOSYS


async def test_descriptor_that_nobody_wants_is_closed(caller: Caller) -> None:
    read, write = os.pipe()
    await caller.ask(ListenerClosed(SOMEWHERE), [write])
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


async def test_failures_of_handlers(server: Server, caller: Caller, capfd: pytest.CaptureFixture[str]) -> None:
    assert await caller.ask(CheckAccess(b"/", 0)) == Failed(errno.EACCES, "not for you")
    assert await caller.ask(CheckAccess(b"/", 1)) == Failed(errno.EIO)
    answer = await caller.ask(CheckAccess(b"/", 2))
    assert isinstance(answer, Failed)
    assert answer.errno == errno.EIO
    assert "a mistake of ours" in capfd.readouterr().err


async def test_first_comes_the_registration(server: Server) -> None:
    caller = await Caller(server.layers.address).connect()
    answer = await caller.ask(ReadLink(b"/a"))
    assert isinstance(answer, Failed)
    caller.close()


@pytest.mark.parametrize("garbage", [b"\xff" * 64, b"\0\0\0\2\x92\xc1", b"\0\0\0\0"])
async def test_malformed_frame_ends_its_own_connection_only(server: Server, caller: Caller, garbage: bytes) -> None:
    other = await Caller(server.layers.address).connect()
    await other.send(garbage)
    assert await other.receive() is None
    other.close()
    assert await caller.ask(REGISTER) == Done()


async def test_connections_of_one_process_share_it(server: Server, caller: Caller) -> None:
    other = await Caller(server.layers.address).connect()
    await other.ask(REGISTER)
    assert list(server.layers.processes) == [os.getpid()]
    other.close()


async def test_process_is_followed_to_its_end(server: Server, nursery: trio.Nursery) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        process = Process(child.pid)
        await nursery.start(server.layers.follow, process)
        assert server.layers.processes == {child.pid: process}
        assert not process.ended.is_set()
        assert child.stdin is not None
        child.stdin.close()
        with trio.fail_after(WITHIN_S):
            await process.ended.wait()
            await server.lifelines.wait_over()
        assert server.layers.processes == {}


async def test_process_that_is_gone_already(server: Server, nursery: trio.Nursery) -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    with pytest.raises(ProcessLookupError):
        await nursery.start(server.layers.follow, Process(child.pid))


ONLY_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can run a process as somebody else: sudo make test")
STRANGER = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
with socket.socket(socket.AF_UNIX) as stranger:
    stranger.connect("\\0" + sys.argv[1])
    try:
        stranger.sendall(bytes.fromhex(sys.argv[2]))
        print(len(stranger.recv(99)))
    except ConnectionError:
        print(0)
"""


@ONLY_ROOT
@pytest.mark.parametrize("is_ours", [False, True])
async def test_other_users_are_served_only_as_descendants(server: Server, nursery: trio.Nursery, is_ours: bool) -> None:
    if is_ours:  # its parent belongs to the session
        await nursery.start(server.layers.follow, Process(os.getpid()))
    command = ["/usr/bin/python3", "-c", STRANGER, server.layers.address, encode_frame(1, REGISTER).hex()]
    result = await trio.run_process(command, capture_stdout=True)
    assert (int(result.stdout) > 0) is is_ours


DAEMON = """
import mmap, os, socket, sys
line = socket.create_connection(("127.0.0.1", int(sys.argv[3])))
print(line.getsockname()[1], flush=True)
if sys.argv[4] == "True":
    mapped = mmap.mmap(line.fileno(), 4096, mmap.MAP_SHARED, mmap.PROT_READ)
sys.stdin.read()
if os.fork():
    os._exit(0)
"""


@ONLY_ROOT
@pytest.mark.parametrize("holds", [False, True])
async def test_orphan_of_another_user_is_served_if_it_holds_a_lifeline(
    server: Server, nursery: trio.Nursery, holds: bool
) -> None:
    await nursery.start(server.lifelines.listen)
    arguments = [server.layers.address, encode_frame(1, REGISTER).hex(), str(server.lifelines.port), str(holds)]
    command = ["/usr/bin/python3", "-c", DAEMON + STRANGER, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        server.lifelines.name(int(daemon.stdout.readline()))
        daemon.stdin.close()
        received = await trio.to_thread.run_sync(daemon.stdout.readline)
    assert (int(received) > 0) is holds


def test_two_parts_cannot_answer_one_message() -> None:
    server = Server()
    handlers: dict[type[Message], Handler] = {ReadLink: server.read_link}
    with pytest.raises(AssertionError):
        server.layers.add_handlers(handlers)
