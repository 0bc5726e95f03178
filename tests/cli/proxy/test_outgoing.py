"""Outgoing connections: the program's own sockets behave as if they connected to the target."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import socket
import struct
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from mirror.cli.proxy.endpoints import from_python, to_python
from mirror.protocol.messages import (
    AskOutcome,
    Connect,
    DescribeSocket,
    SocketAddress,
    SocketDescribed,
)
from tests.cli.proxy.network import Network, open_network

V4, V6 = socket.AF_INET, socket.AF_INET6
SO_COOKIE = 57
ALL_EVENTS = select.POLLIN | select.POLLOUT | select.POLLRDHUP
RST = struct.pack("@ii", 1, 0)
NOWHERE = ("255.255.255.255", 9)
"""What the layer has connect() wait with: it begins nothing."""

WAYS = [
    pytest.param(V4, False, id="IPv4"),
    pytest.param(V6, False, id="IPv6 to a mapped address"),
    pytest.param(V6, True, id="IPv6 only"),
]


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Something in the target to connect to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def program_socket(family: int = V4, *, v6only: bool = False) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    if v6only:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.setblocking(False)
    return made


def begin_connect(network: Network, made: socket.socket) -> None:
    """What the layer does first in connect()."""
    port = network.outgoing.stub.port
    v6only = made.family == V6 and made.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    host = "127.0.0.1" if made.family == V4 else "::1" if v6only else "::ffff:127.0.0.1"
    assert made.connect_ex((host, port)) == errno.EINPROGRESS


async def start(network: Network, made: socket.socket, endpoint: SocketAddress) -> None:
    """What the layer does in connect()."""
    begin_connect(network, made)
    await network.tell(Connect(0, endpoint), os.dup(made.fileno()))


async def outcome(network: Network, made: socket.socket) -> int:
    """What the layer gives as SO_ERROR: 0 or an errno."""
    await trio.lowlevel.wait_writable(made)
    number = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number != errno.ECONNRESET:
        return number
    (cookie,) = struct.unpack("=Q", made.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))
    return await network.errno_of(AskOutcome(cookie))


async def receive(connected: socket.socket) -> bytes:
    while True:
        await trio.lowlevel.wait_readable(connected)
        with contextlib.suppress(BlockingIOError):
            return connected.recv(65536)


async def accept(listener: socket.socket) -> socket.socket:
    await trio.lowlevel.wait_readable(listener)
    accepted, _ = listener.accept()
    accepted.setblocking(False)
    return accepted


@contextlib.asynccontextmanager
async def connection(network: Network, server: socket.socket, family: int = V4, *, v6only: bool = False):  # type: ignore[no-untyped-def]
    """A program's socket and what it is connected to in the target."""
    with program_socket(family, v6only=v6only) as made:
        await start(network, made, from_python(server.getsockname()))
        assert await outcome(network, made) == 0
        with await accept(server) as accepted:
            yield made, accepted


@pytest.mark.parametrize(("family", "v6only"), WAYS)
async def test_connects_and_each_direction_ends_by_itself(server: socket.socket, family: int, v6only: bool) -> None:
    async with open_network() as network, connection(network, server, family, v6only=v6only) as (made, accepted):
        made.send(b"question")
        assert await receive(accepted) == b"question"
        made.shutdown(socket.SHUT_WR)
        assert await receive(accepted) == b""
        accepted.send(b"answer")
        assert await receive(made) == b"answer"
        accepted.close()
        assert await receive(made) == b""


@pytest.mark.parametrize(("family", "v6only"), WAYS)
async def test_is_called_as_in_the_target(server: socket.socket, family: int, v6only: bool) -> None:
    async with open_network() as network, connection(network, server, family, v6only=v6only) as (made, accepted):
        question = DescribeSocket(from_python(made.getsockname()), from_python(made.getpeername()))
        assert await network.ask(question) == SocketDescribed(
            local=from_python(accepted.getpeername()), peer=from_python(server.getsockname())
        )


async def test_knows_nothing_of_other_sockets() -> None:
    async with open_network() as network:
        loopback = SocketAddress(bytes([127, 0, 0, 1]), 9)
        assert await network.errno_of(DescribeSocket(loopback, loopback)) == errno.ENOENT
        assert await network.errno_of(AskOutcome(12345)) == errno.ENOENT


async def test_is_pending_until_the_target_answers(server: socket.socket) -> None:
    async with open_network() as network:
        network.agent.hold = trio.Event()
        with program_socket() as made:
            await start(network, made, from_python(server.getsockname()))
            await network.agent.until(lambda: network.agent.holders == 1)
            poll = select.poll()
            poll.register(made, ALL_EVENTS)
            assert poll.poll(0) == []
            assert made.connect_ex(("127.0.0.1", 1)) == errno.EALREADY
            network.agent.hold.set()
            assert await outcome(network, made) == 0
            assert made.connect_ex(("127.0.0.1", 1)) == 0  # the first call after it was established
            assert made.connect_ex(("127.0.0.1", 1)) == errno.EISCONN


@pytest.mark.parametrize(("family", "v6only"), WAYS)
@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EPERM])
async def test_fails_as_in_the_target(family: int, v6only: bool, number: int) -> None:
    async with open_network() as network:
        network.agent.connect_errno = number
        with program_socket(family, v6only=v6only) as made:
            await start(network, made, SocketAddress(b"\x0a\x00\x00\x01", 80))
            assert await outcome(network, made) == number
            assert made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


async def test_refused_in_earnest() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with open_network() as network:
            with program_socket() as made:
                await start(network, made, from_python(unused.getsockname()))
                assert await outcome(network, made) == errno.ECONNREFUSED


@pytest.mark.parametrize(("family", "v6only"), WAYS)
async def test_failure_polls_as_the_kernel_s(family: int, v6only: bool) -> None:
    def events(made: socket.socket) -> list[tuple[int, int]]:
        poll = select.poll()
        poll.register(made, ALL_EVENTS)
        return [(0, mask) for _, mask in poll.poll(0)]

    with socket.socket() as unused, program_socket() as refused:
        unused.bind(("127.0.0.1", 0))
        refused.connect_ex(unused.getsockname())
        await trio.lowlevel.wait_writable(refused)
        before = events(refused)
        refused.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        after = events(refused)
    async with open_network() as network:
        network.agent.connect_errno = errno.ECONNREFUSED
        with program_socket(family, v6only=v6only) as made:
            await start(network, made, SocketAddress(b"\x0a\x00\x00\x01", 80))
            await trio.lowlevel.wait_writable(made)
            assert events(made) == before
            assert await outcome(network, made) == errno.ECONNREFUSED
            assert events(made) == after


@pytest.mark.parametrize("number", [0, errno.ECONNREFUSED])
async def test_blocking_connect_waits_in_the_kernel(server: socket.socket, number: int) -> None:
    async with open_network() as network:
        network.agent.hold = trio.Event()
        network.agent.connect_errno = number
        with program_socket() as made:
            await start(network, made, from_python(server.getsockname()))
            made.setblocking(True)
            results: list[int] = []

            async def wait() -> None:
                results.append(await trio.to_thread.run_sync(made.connect_ex, NOWHERE, abandon_on_cancel=True))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await network.agent.until(lambda: network.agent.holders == 1)
                assert results == []
                network.agent.hold.set()
            # ENETUNREACH: the thread comes late, the connection has failed already.
            assert results[0] in ((errno.ECONNRESET, errno.ENETUNREACH) if number else (0,))


async def test_can_be_tried_again_after_failing(server: socket.socket) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    async with open_network() as network:
        with program_socket() as made:
            network.agent.connect_errno = errno.EHOSTUNREACH
            await start(network, made, from_python(server.getsockname()))
            assert await outcome(network, made) == errno.EHOSTUNREACH
            assert libc.connect(made.fileno(), bytes(16), 16) == 0  # as the layer does: AF_UNSPEC
            network.agent.connect_errno = 0
            await start(network, made, from_python(server.getsockname()))
            assert await outcome(network, made) == 0
            with await accept(server) as accepted:
                made.send(b"x")
                assert await receive(accepted) == b"x"


async def test_two_hundred_at_once(server: socket.socket) -> None:
    server.listen(200)
    async with open_network() as network:
        network.agent.hold = trio.Event()
        made = [program_socket() for _ in range(200)]
        with contextlib.ExitStack() as stack:
            for one in made:
                stack.enter_context(one)
                await start(network, one, from_python(server.getsockname()))
            await network.agent.until(lambda: network.agent.holders == 200)
            network.agent.hold.set()
            assert {await outcome(network, one) for one in made} == {0}
            for one in made:
                one.send(b"%d" % one.fileno())
            accepted = [stack.enter_context(await accept(server)) for _ in made]
            assert {await receive(one) for one in accepted} == {b"%d" % one.fileno() for one in made}


async def test_quick_programs_lose_nothing(server: socket.socket) -> None:
    """The program may have sent everything, and its end, before the proxy knows that it is connected."""

    def ask(made: socket.socket) -> bytes:
        made.setblocking(True)
        assert made.connect_ex(NOWHERE) == 0
        made.sendall(b"question")
        made.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: made.recv(100), b""))

    async def answer(accepted: socket.socket) -> None:
        with accepted:
            assert await receive(accepted) == b"question"
            assert await receive(accepted) == b""
            accepted.send(b"answer")

    async def run(network: Network) -> None:
        with program_socket() as made:
            await start(network, made, from_python(server.getsockname()))
            assert await trio.to_thread.run_sync(ask, made, abandon_on_cancel=True) == b"answer"

    async with open_network() as network, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(run, network)
        for _ in range(50):
            nursery.start_soon(answer, await accept(server))


async def test_program_s_reset_reaches_the_target(server: socket.socket) -> None:
    async with open_network() as network, connection(network, server) as (made, accepted):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        made.close()
        with pytest.raises(ConnectionResetError):
            await receive(accepted)


async def test_target_s_reset_reaches_the_program(server: socket.socket) -> None:
    async with open_network() as network, connection(network, server) as (made, accepted):
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        accepted.close()
        with pytest.raises(ConnectionResetError):
            await receive(made)


async def test_lost_agent_is_no_end_of_data(server: socket.socket) -> None:
    async with open_network() as network, connection(network, server) as (made, _):
        network.access.comes_back = False
        await network.agent.peer.aclose()
        with pytest.raises(ConnectionResetError):
            await receive(made)
        with program_socket() as late:
            await start(network, late, from_python(server.getsockname()))
            assert await outcome(network, late) == errno.ENETDOWN


async def test_slow_reader_stops_its_writer(server: socket.socket) -> None:
    async with open_network() as network, connection(network, server) as (made, accepted):
        chunk = bytes(1 << 20)
        sent = 0
        with trio.move_on_after(0.5) as scope:  # nothing is waited for: the writer must come to a stop
            while sent < 256 << 20:
                await trio.lowlevel.wait_writable(made)
                sent += made.send(chunk)
        assert scope.cancelled_caught
        assert sent < 64 << 20
        received = 0
        while received < sent:
            received += len(await receive(accepted))
        assert received == sent


async def test_socket_that_gives_up_is_given_up(server: socket.socket) -> None:
    async with open_network() as network:
        network.agent.hold = trio.Event()
        with program_socket() as made:
            await start(network, made, from_python(server.getsockname()))
            await network.agent.until(lambda: network.agent.holders == 1)
            made.shutdown(socket.SHUT_RDWR)
            assert made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
        network.agent.hold.set()
        # What the target accepted for it is reset.
        with await accept(server) as accepted, pytest.raises(ConnectionResetError):
            await receive(accepted)


async def test_stub_gives_strangers_nothing(server: socket.socket) -> None:
    async with open_network() as network:
        with program_socket() as stranger, program_socket() as made:
            begin_connect(network, stranger)
            await start(network, made, from_python(server.getsockname()))
            assert await outcome(network, made) == 0
            poll = select.poll()
            poll.register(stranger, ALL_EVENTS)
            assert poll.poll(0) == []
            with pytest.raises(OSError, match="not connected"):
                stranger.getpeername()


async def test_socket_bound_to_another_address_of_the_machine(server: socket.socket) -> None:
    async with open_network() as network:
        with program_socket() as made:
            made.bind(("127.9.9.9", 0))
            await start(network, made, from_python(server.getsockname()))
            assert await outcome(network, made) == 0


async def test_what_is_no_connecting_socket_harms_nothing(server: socket.socket) -> None:
    async with open_network() as network:
        await network.tell(Connect(0, from_python(server.getsockname())))
        with socket.socket(socket.AF_UNIX) as wrong:
            await network.tell(Connect(0, from_python(server.getsockname())), os.dup(wrong.fileno()))
        async with connection(network, server):
            pass


def test_endpoints_lose_their_mapping() -> None:
    assert from_python(("::ffff:127.0.0.1", 80, 0, 0)) == SocketAddress(b"\x7f\x00\x00\x01", 80)
    assert to_python(SocketAddress(bytes(15) + b"\x01", 80)) == ("::1", 80, 0, 0)


async def test_a_connection_is_asked_for_again_when_the_agent_is_lost(server: socket.socket) -> None:
    async with open_network() as network:
        network.agent.hold = trio.Event()
        with program_socket() as made:
            await start(network, made, from_python(server.getsockname()))
            await network.agent.until(lambda: network.agent.holders == 1)
            network.agent.hold = None
            await network.agent.peer.aclose("it was killed")
            assert await outcome(network, made) == 0
            with await accept(server) as accepted:
                made.sendall(b"hello")
                assert await receive(accepted) == b"hello"
        assert network.access.begun == 2


async def test_a_program_may_give_up_while_there_is_no_agent(server: socket.socket) -> None:
    async with open_network() as network:
        network.access.may_begin = trio.Event()
        await network.agent.peer.aclose("it was killed")
        with program_socket() as made:
            await start(network, made, from_python(server.getsockname()))
            await trio.testing.wait_all_tasks_blocked()
            made.shutdown(socket.SHUT_RDWR)
            await trio.testing.wait_all_tasks_blocked(0.05)
        # Whatever is connected later is not the one that was given up.
        network.access.may_begin.set()
        with program_socket() as made:
            await start(network, made, from_python(server.getsockname()))
            assert await outcome(network, made) == 0
            (await accept(server)).close()
        with pytest.raises(BlockingIOError):
            server.accept()
