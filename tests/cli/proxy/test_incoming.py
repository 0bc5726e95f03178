"""Incoming connections: subscriptions follow the program's listeners, and callers reach them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys

import pytest
import trio
import trio.testing

from mirror.cli.cluster.probes import Probes
from mirror.cli.proxy.endpoints import from_python, to_python
from mirror.cli.proxy.listening import listening
from mirror.protocol.messages import (
    ChoosePort,
    ClaimPort,
    DescribeSocket,
    Done,
    FindListener,
    Listen,
    ListenerClosed,
    ListenerFound,
    Message,
    PortChosen,
    SocketAddress,
    SocketDescribed,
    Subscribe,
    Unsubscribe,
)
from mirror.protocol.stream import ChannelReset
from tests.cli.proxy.network import Network, open_network

V4, V6 = socket.AF_INET, socket.AF_INET6
POD = b"\x0a\xf4\x01\x02"
POD_V6 = socket.inet_pton(V6, "fd00::2")
CALLER = SocketAddress(b"\x0a\xf4\x09\x28", 51000)
CALLER_V6 = SocketAddress(socket.inet_pton(V6, "fd00::9"), 51000)


def listener(host: str = "0.0.0.0", *, v6only: bool = False) -> socket.socket:
    made = socket.socket(V6 if ":" in host else V4)
    if made.family == V6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    made.bind((host, 0))
    made.listen()
    made.setblocking(False)
    return made


def bound_at(made: socket.socket) -> SocketAddress:
    return from_python(made.getsockname())


async def listen(network: Network, made: socket.socket, asked: SocketAddress | None = None) -> SocketAddress:
    """Does what the layer does when the program listens. Returns where the program thinks it does."""
    message = listen_of(made, asked)
    assert await network.ask(message) == Done()
    return message.asked


def listen_of(made: socket.socket, asked: SocketAddress | None = None) -> Listen:
    bound = bound_at(made)
    v6only = made.family == V6 and bool(made.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    return Listen(asked or bound, bound, v6only, os.fstat(made.fileno()).st_ino)


async def accept(made: socket.socket) -> tuple[socket.socket, SocketDescribed]:
    """An accepted connection, and how the layer learns to call it."""
    await trio.lowlevel.wait_readable(made)
    accepted, _ = made.accept()
    accepted.setblocking(False)
    return accepted, SocketDescribed(bound_at(accepted), from_python(accepted.getpeername()))


async def receive(connected: socket.socket) -> bytes:
    while True:
        await trio.lowlevel.wait_readable(connected)
        with contextlib.suppress(BlockingIOError):
            return connected.recv(65536)


@pytest.mark.parametrize("steal", [True, False])
async def test_subscribes_while_the_program_listens(steal: bool) -> None:
    async with open_network("steal" if steal else "mirror") as network:
        with listener() as made:
            asked = await listen(network, made)
            assert network.agent.heard == [Subscribe(asked.port, steal, bytes(4))]
            await listen(network, made)  # listen() again, with another backlog
            assert len(network.agent.heard) == 1
        await network.tell(ListenerClosed(asked))
        assert network.agent.heard[1:] == [Unsubscribe(asked.port)]


async def test_notices_by_itself_that_a_listener_is_gone() -> None:
    async with open_network() as network:
        with listener() as made:
            asked = await listen(network, made)
        await network.agent.until(lambda: Unsubscribe(asked.port) in network.agent.heard)


async def test_a_listener_lives_as_long_as_any_process_has_it() -> None:
    async with open_network() as network:
        with listener() as made:
            asked = await listen(network, made)
            argv = [sys.executable, "-c", "import sys; sys.stdin.read()"]
            holder = await trio.lowlevel.open_process(argv, stdin=subprocess.PIPE, pass_fds=[made.fileno()])
        assert holder.stdin is not None
        try:
            await network.tell(ListenerClosed(asked))
            assert len(network.agent.heard) == 1
        finally:
            await holder.stdin.aclose()
            with trio.CancelScope(shield=True):
                await holder.wait()
        await network.agent.until(lambda: Unsubscribe(asked.port) in network.agent.heard)


async def test_another_s_listener_at_the_same_place_is_not_ours() -> None:
    async with open_network() as network:
        with listener() as made:
            asked = await listen(network, made)
        with socket.create_server(("0.0.0.0", asked.port)):
            assert await network.errno_of(FindListener(asked)) == errno.ENOENT
            channel = await network.agent.deliver(SocketAddress(POD, asked.port), CALLER)
            with pytest.raises(ChannelReset):
                await channel.receive()
            await network.tell(ListenerClosed(asked))
            assert network.agent.heard[1:] == [Unsubscribe(asked.port)]
            with listener() as elsewhere:
                await listen(network, elsewhere, asked)
                channel = await network.agent.deliver(SocketAddress(POD, asked.port), CALLER)
                accepted, _ = await accept(elsewhere)
                accepted.close()
                await channel.aclose()


async def test_a_port_is_one_session_s_at_a_time() -> None:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        free = bound_at(probe)
    async with open_network() as one:
        async with open_network() as other:
            assert await other.ask(ClaimPort(free)) == await other.ask(ClaimPort(free)) == Done()
            assert await one.errno_of(ClaimPort(free)) == errno.EADDRINUSE
            assert await one.errno_of(ClaimPort(SocketAddress(b"\x7f\0\0\1", free.port))) == errno.EADDRINUSE
        assert await one.ask(ClaimPort(free)) == Done()


async def test_a_port_of_a_program_without_mirror_is_not_shared() -> None:
    async with open_network() as network:
        with listener("127.0.0.1") as foreign:
            taken = bound_at(foreign)
            assert await network.errno_of(ClaimPort(taken)) == errno.EADDRINUSE
            assert await network.errno_of(ClaimPort(SocketAddress(bytes(4), taken.port))) == errno.EADDRINUSE
            assert await network.ask(ClaimPort(SocketAddress(b"\x7f\0\0\2", taken.port))) == Done()


async def test_a_port_that_was_replaced_stays_so() -> None:
    async with open_network() as network:
        with listener() as foreign:
            taken = bound_at(foreign)
            await network.ask(ChoosePort(taken))
        assert await network.errno_of(ClaimPort(taken)) == errno.EADDRINUSE


async def test_off_means_that_the_agent_hears_nothing() -> None:
    async with open_network("off") as network:
        with listener() as made:
            asked = await listen(network, made)
            assert await network.ask(FindListener(SocketAddress(b"\x7f\x00\x00\x01", asked.port)))
        await network.tell(ListenerClosed(asked))
        assert network.agent.heard == []


async def test_agent_without_incoming_is_not_asked() -> None:
    async with open_network() as network:
        network.session.missing["incoming"] = "no capability NET_ADMIN"
        with listener() as made:
            await listen(network, made)
        assert network.agent.heard == []


@pytest.mark.parametrize(
    ("incoming", "way", "keeps_http", "keeps_node"),
    [("steal", "http", True, False), ("steal", "other", False, True), ("steal", "none", False, False)]
    + [("mirror", way, False, False) for way in ("http", "other")],
)
async def test_probes_of_a_stolen_port_stay(incoming: str, way: str, keeps_http: bool, keeps_node: bool) -> None:
    async with open_network(incoming) as network:
        with listener() as made:
            port = bound_at(made).port
            http, other = (frozenset({port} if way == each else ()) for each in ("http", "other"))
            network.session.probes = Probes(http, other)
            await listen(network, made)
            (heard,) = network.agent.heard
            assert isinstance(heard, Subscribe)
            assert (heard.keep_http_probes, heard.keep_node) == (keeps_http, keeps_node)


@pytest.mark.parametrize(("incoming", "keeps"), [("steal", True), ("mirror", False)])
async def test_commands_that_probe_may_call_the_target_by_its_loopback(incoming: str, keeps: bool) -> None:
    async with open_network(incoming) as network:
        with listener() as made:
            network.session.probes = Probes(are_commands=True)
            await listen(network, made)
            (heard,) = network.agent.heard
            assert isinstance(heard, Subscribe)
            assert heard.keep_from == ((b"\x7f\0\0\x01", bytes(15) + b"\x01") if keeps else ())


async def test_port_that_somebody_else_has() -> None:
    async with open_network() as network:
        with listener() as made:
            network.agent.refused_port = bound_at(made).port
            assert await network.errno_of(listen_of(made)) == errno.EADDRINUSE
            assert await network.errno_of(FindListener(bound_at(made))) == errno.ENOENT


async def test_two_families_at_one_port() -> None:
    async with open_network() as network:
        with listener() as ipv4, listener("::", v6only=True) as ipv6:
            port = 8080
            await listen(network, ipv4, SocketAddress(bytes(4), port))
            await listen(network, ipv6, SocketAddress(bytes(16), port))
            assert network.agent.heard == [Subscribe(port, True, bytes(4)), Subscribe(port, True, b"")]
            for called, caller, made in ((POD, CALLER, ipv4), (POD_V6, CALLER_V6, ipv6)):
                channel = await network.agent.deliver(SocketAddress(called, port), caller)
                accepted, _ = await accept(made)
                accepted.close()
                await channel.aclose()


@pytest.mark.parametrize(
    ("host", "v6only", "called", "caller"),
    [
        pytest.param("0.0.0.0", False, POD, CALLER, id="IPv4"),
        pytest.param("127.0.0.1", False, POD, CALLER, id="one address"),
        pytest.param("::", False, POD, CALLER, id="IPv4 to a dual-stack listener"),
        pytest.param("::", False, POD_V6, CALLER_V6, id="IPv6 to a dual-stack listener"),
        pytest.param("::", True, POD_V6, CALLER_V6, id="IPv6 only"),
        pytest.param("::1", False, POD_V6, CALLER_V6, id="one IPv6 address"),
    ],
)
async def test_callers_reach_the_program(host: str, v6only: bool, called: bytes, caller: SocketAddress) -> None:
    async with open_network() as network:
        with listener(host, v6only=v6only) as made:
            asked = SocketAddress(called if host in ("127.0.0.1", "::1") else bound_at(made).address, 8080)
            await listen(network, made, asked)
            local = SocketAddress(called, 8080)
            channel = await network.agent.deliver(local, caller)
            accepted, ends = await accept(made)
            with accepted:
                assert await network.ask(DescribeSocket(ends.local, ends.peer)) == SocketDescribed(local, caller)
                if len(ends.peer.address) == 4:
                    assert ends.peer.address == network.incoming.delivery
                await channel.send(b"question")
                await channel.send_eof()
                assert await receive(accepted) == b"question"
                assert await receive(accepted) == b""
                accepted.send(b"answer")
            assert await channel.receive() == b"answer"
            assert await channel.receive() == b""


async def test_answers_to_copies_are_dropped() -> None:
    async with open_network("mirror") as network:
        with listener() as made:
            asked = await listen(network, made)
            channel = await network.agent.deliver(SocketAddress(POD, asked.port), CALLER, steal=False)
            accepted, _ = await accept(made)
            with accepted:
                await channel.send(b"question")
                assert await receive(accepted) == b"question"
                accepted.send(b"answer" * 100_000)
            assert await channel.receive() == b""


async def test_nobody_there_leaves_it_to_the_target() -> None:
    async with open_network() as network:
        channel = await network.agent.deliver(SocketAddress(POD, 8080), CALLER)
        with pytest.raises(ChannelReset) as caught:
            await channel.receive()
        assert caught.value.errno == errno.ECONNREFUSED
        with listener() as made:
            await listen(network, made, SocketAddress(bytes(4), 8080))
        channel = await network.agent.deliver(SocketAddress(POD, 8080), CALLER)
        with pytest.raises(ChannelReset) as caught:
            await channel.receive()
        assert caught.value.errno == errno.ECONNREFUSED


async def test_delivery_address_differs_from_session_to_session() -> None:
    async with open_network() as one, open_network() as other:
        assert one.incoming.delivery[0] == 127
        assert one.incoming.delivery != other.incoming.delivery


async def test_finds_the_session_s_own_listeners() -> None:
    async with open_network() as network:
        with listener() as made:
            bound = bound_at(made)
            await listen(network, made, SocketAddress(bytes(4), 8080))
            local = SocketAddress(b"\x7f\x00\x00\x01", 8080)
            found = ListenerFound(SocketAddress(b"\x7f\x00\x00\x01", bound.port))
            assert await network.ask(FindListener(local)) == found
            assert await network.ask(FindListener(SocketAddress(bytes(4), 8080))) == found
            assert await network.errno_of(FindListener(SocketAddress(local.address, 8081))) == errno.ENOENT
            assert network.incoming.moved() == (listen_of(made, SocketAddress(bytes(4), 8080)),)
        assert await network.errno_of(FindListener(local)) == errno.ENOENT


async def test_chosen_ports_stay() -> None:
    async with open_network() as network:
        with listener() as foreign:
            taken = bound_at(foreign)
            first = await network.ask(ChoosePort(taken))
            assert isinstance(first, PortChosen)
            assert first.bound.address == bytes(4)
            assert first.bound.port not in (0, taken.port)
            assert await network.ask(ChoosePort(taken)) == first
            elsewhere = await network.ask(ChoosePort(SocketAddress(b"\x7f\x00\x00\x01", taken.port)))
            assert elsewhere == PortChosen(SocketAddress(b"\x7f\x00\x00\x01", first.bound.port))


async def test_chosen_address_is_one_of_this_machine() -> None:
    async with open_network() as network:
        for asked in (SocketAddress(POD, 8080), SocketAddress(POD_V6, 8080), SocketAddress(POD, 0)):
            reply = await network.ask(ChoosePort(asked))
            assert isinstance(reply, PortChosen)
            assert (reply.bound.port == 0) == (asked.port == 0)
            with socket.socket(V4 if len(asked.address) == 4 else V6) as made:
                made.bind(to_python(reply.bound))


async def test_no_port_is_chosen_beside_the_session_s_own() -> None:
    async with open_network() as network:
        with listener() as made:
            asked = await listen(network, made)
            assert await network.errno_of(ChoosePort(asked)) == errno.EADDRINUSE
            # Two real ports cannot be one in the target.
            with listener() as other:
                assert await network.errno_of(listen_of(other, asked)) == errno.EADDRINUSE


def test_the_kernel_s_listeners() -> None:
    with listener() as ipv4, listener("::1") as ipv6, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        found = listening()
        assert [found[os.fstat(made.fileno()).st_ino] for made in (ipv4, ipv6)] == [bound_at(ipv4), bound_at(ipv6)]
        assert bound_at(silent) not in found.values()


async def test_an_error_while_delivering_ends_that_connection_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_network() as network:
        with listener() as made:
            asked = await listen(network, made)
            called = SocketAddress(POD, asked.port)
            working = await network.agent.deliver(called, CALLER)
            accepted, _ = await accept(made)
            with monkeypatch.context() as faulty:
                faulty.setattr("mirror.cli.proxy.incoming.SocketDescribed", None)
                failing = await network.agent.deliver(called, CALLER)
                with pytest.raises(ChannelReset) as raised:
                    await failing.receive()
            assert raised.value.errno == errno.ECONNRESET
            with accepted:
                await working.send(b"still here")
                assert await receive(accepted) == b"still here"
            await working.aclose()
    assert "TypeError" in capsys.readouterr().err


async def test_the_next_agent_is_asked_for_what_the_last_one_was() -> None:
    async with open_network() as network:
        with listener() as made, listener() as other, listener() as refused:
            ports = [(await listen(network, each)).port for each in (made, other, refused)]
            network.agent.heard.clear()
            network.agent.refused_port = ports[2]
            await network.agent.peer.aclose("it was killed")
            # What was refused is asked for again and again, until it can be had.
            await network.agent.until(lambda: len(network.agent.heard) > 4)
            assert [wanted.port for wanted in network.agent.heard[:3] if isinstance(wanted, Subscribe)] == ports
            (told,) = (told for told in network.session.told if "stays with the target" in told)
            assert told == f"port {ports[2]} of the target stays with the target: somebody else has it"
            network.agent.refused_port = 0
            count = len(network.agent.heard)
            await network.agent.until(lambda: len(network.agent.heard) > count)
            channel = await network.agent.deliver(SocketAddress(POD, ports[0]), CALLER)
            (await accept(made))[0].close()
            await channel.aclose()


async def test_the_last_agent_stops_before_the_next_one_begins() -> None:
    """Both may be in the same network, where a port can be stolen once."""
    async with open_network() as network:
        with listener() as made:
            port = (await listen(network, made)).port
            old, new = network.agent, network.new_agent()
            order: list[tuple[str, Message]] = []
            old.heard, new.heard = Log("old", order), Log("new", order)
            network.access.go("pod web-1 is being removed", new, "pod web-2")
            await new.until(lambda: bool(new.heard))
            assert [(name, type(message)) for name, message in order] == [("old", Unsubscribe), ("new", Subscribe)]
            channel = await new.deliver(SocketAddress(POD, port), CALLER)
            (await accept(made))[0].close()
            await channel.aclose()


async def test_a_listener_waits_for_an_agent() -> None:
    async with open_network() as network:
        network.access.may_begin = trio.Event()
        await network.agent.peer.aclose("it was killed")
        with listener() as early, listener() as late:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen, network, early)
                await trio.testing.wait_all_tasks_blocked()
                # What is known here needs no agent.
                found = await network.ask(FindListener(bound_at(early)))
                assert isinstance(found, ListenerFound)
                await network.tell(ListenerClosed(bound_at(late)))
                assert network.agent.heard == []
                network.access.may_begin.set()
            assert [type(message) for message in network.agent.heard][:1] == [Subscribe]


class Log(list[Message]):
    """What an agent has heard, and what all have, in one order."""

    def __init__(self, name: str, order: list[tuple[str, Message]]) -> None:
        super().__init__()
        self._name = name
        self._order = order

    def append(self, message: Message) -> None:
        super().append(message)
        self._order.append((self._name, message))
