"""Outgoing connections: errors, addresses and the ends of streams are those of a socket in the target."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
import trio

from mirror.protocol import messages as m
from mirror.protocol.stream import Channel, ChannelReset, RequestFailed
from tests.agent.actors import IS_ROOT, NOBODY, Agent, Target, open_agent, open_target

V4, V6 = socket.AF_INET, socket.AF_INET6


class Scene(NamedTuple):
    """A sandbox whose network is its own, and an agent for it."""

    target: Target
    agent: Agent


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    ids = {"outer_uid": NOBODY} if IS_ROOT else {}
    with open_target(unshare=True, **ids) as target:
        async with open_agent(target.pid, uid=NOBODY if IS_ROOT else None) as agent:
            yield Scene(target, agent)


def at(host: str, port: int) -> m.SocketAddress:
    return m.SocketAddress(socket.inet_pton(V6 if ":" in host else V4, host), port)


def listen(scene: Scene, host: str = "127.0.0.1", name: str = "server") -> int:
    """Has the target listen; the port."""
    family = int(V6 if ":" in host else V4)
    scene.target.ask(f"{name} = socket.create_server(({host!r}, 0), family=socket.AddressFamily({family}))")
    port = scene.target.ask(f"{name}.getsockname()[1]")
    assert isinstance(port, int)
    return port


async def connect(
    scene: Scene, endpoint: m.SocketAddress, bind: m.SocketAddress | None = None
) -> tuple[Channel, m.Connected]:
    channel = scene.agent.peer.open_channel()
    return channel, await scene.agent.peer.request(m.Connect(channel.id, endpoint, bind), m.Connected)


async def connected(scene: Scene) -> Channel:
    """A connection to the target, which has it as `peer`."""
    channel, _ = await connect(scene, at("127.0.0.1", listen(scene)))
    scene.target.ask("peer, caller = server.accept()")
    return channel


async def receive_all(channel: Channel) -> bytes:
    received = b""
    while part := await channel.receive():
        received += part
    return received


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_both_ends_have_the_addresses_of_the_target(scene: Scene, host: str) -> None:
    port = listen(scene, host)
    channel, reply = await connect(scene, at(host, port))
    scene.target.ask("peer, caller = server.accept()")
    assert reply.peer == at(host, port)
    assert reply.local == at(host, scene.target.ask("caller[1]"))
    assert scene.target.ask("caller[0]") == host
    await channel.aclose()


async def test_an_ipv4_address_in_ipv6_clothes_reaches_ipv4(scene: Scene) -> None:
    port = listen(scene)
    _, reply = await connect(scene, at("::ffff:127.0.0.1", port))
    scene.target.ask("peer, caller = server.accept()")
    assert reply.local == at("::ffff:127.0.0.1", scene.target.ask("caller[1]"))


async def test_it_is_bound_as_the_program_asked(scene: Scene) -> None:
    port = listen(scene)
    _, reply = await connect(scene, at("127.0.0.1", port), bind=at("127.0.0.9", 0))
    scene.target.ask("peer, caller = server.accept()")
    assert scene.target.ask("caller") == ("127.0.0.9", reply.local.port)
    _, reply = await connect(scene, at("127.0.0.1", port), bind=at("127.0.0.8", 801))
    assert reply.local == at("127.0.0.8", 801)


@pytest.mark.parametrize(
    ("endpoint", "bind", "number"),
    [
        (at("127.0.0.1", 1), None, errno.ECONNREFUSED),
        (at("::1", 1), None, errno.ECONNREFUSED),
        (at("0.0.0.0", 1), None, errno.ECONNREFUSED),
        (at("192.0.2.1", 80), None, errno.ENETUNREACH),
        (at("2001:db8::1", 80), None, errno.ENETUNREACH),
        (at("fe80::1", 80), None, errno.EINVAL),
        (at("255.255.255.255", 80), None, errno.ENETUNREACH),
        (at("127.0.0.1", 1), at("192.0.2.77", 0), errno.EADDRNOTAVAIL),
        (m.SocketAddress(b"12345", 1), None, errno.EINVAL),
    ],
)
async def test_a_refusal_is_the_targets(
    scene: Scene, endpoint: m.SocketAddress, bind: m.SocketAddress | None, number: int
) -> None:
    with pytest.raises(RequestFailed) as failed:
        await connect(scene, endpoint, bind)
    assert failed.value.errno == number


async def test_a_taken_port_cannot_be_bound(scene: Scene) -> None:
    port = listen(scene)
    with pytest.raises(RequestFailed) as failed:
        await connect(scene, at("127.0.0.1", port), bind=at("127.0.0.1", port))
    assert failed.value.errno == errno.EADDRINUSE


async def test_bytes_and_ends_pass_both_ways_by_themselves(scene: Scene) -> None:
    channel = await connected(scene)
    await channel.send(b"question")
    assert await trio.to_thread.run_sync(scene.target.ask, "peer.recv(100)") == b"question"
    await channel.send_eof()
    assert await trio.to_thread.run_sync(scene.target.ask, "peer.recv(100)") == b""
    scene.target.ask("peer.sendall(b'answer'); peer.close()")
    assert await receive_all(channel) == b"answer"
    await channel.aclose()


async def test_the_target_may_end_its_direction_first(scene: Scene) -> None:
    channel = await connected(scene)
    scene.target.ask("peer.sendall(b'greeting'); peer.shutdown(socket.SHUT_WR)")
    assert await receive_all(channel) == b"greeting"
    await channel.send(b"still here")
    assert await trio.to_thread.run_sync(scene.target.ask, "peer.recv(100)") == b"still here"
    await channel.send_eof()
    assert await trio.to_thread.run_sync(scene.target.ask, "peer.recv(100)") == b""
    await channel.aclose()


async def test_a_reset_by_the_target_resets_the_channel(scene: Scene) -> None:
    channel = await connected(scene)
    scene.target.ask("peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); peer.close()")
    with pytest.raises(ChannelReset) as reset:
        await channel.receive()
    assert reset.value.errno == errno.ECONNRESET


async def test_a_reset_channel_resets_the_connection(scene: Scene) -> None:
    channel = await connected(scene)
    await channel.send(b"x")
    assert await trio.to_thread.run_sync(scene.target.ask, "peer.recv(1)") == b"x"
    channel.reset(errno.ECONNRESET)
    with pytest.raises(ConnectionResetError):
        await trio.to_thread.run_sync(scene.target.ask, "peer.recv(1)")


async def test_much_data_passes_both_ways_at_once(scene: Scene) -> None:
    channel = await connected(scene)
    scene.target.ask(
        "def echo():\n"
        "    while data := peer.recv(100_000):\n"
        "        peer.sendall(data)\n"
        "    peer.close()\n"
        "threading.Thread(target=echo, daemon=True).start()"
    )
    data = os.urandom(5 << 20)

    async def send() -> None:
        await channel.send(data)
        await channel.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert await receive_all(channel) == data


async def test_a_connection_that_is_not_read_stops_nothing_else(scene: Scene) -> None:
    stuck = await connected(scene)
    scene.target.ask("threading.Thread(target=peer.sendall, args=(bytes(20 << 20),), daemon=True).start()")
    other = await connected_second(scene)
    await other.send(b"ping")
    assert await trio.to_thread.run_sync(scene.target.ask, "second.recv(10)") == b"ping"
    stuck.reset()


async def connected_second(scene: Scene) -> Channel:
    channel, _ = await connect(scene, at("127.0.0.1", listen(scene, name="another")))
    scene.target.ask("second, caller = another.accept()")
    return channel


async def test_many_connections_at_once(scene: Scene) -> None:
    port = listen(scene)
    scene.target.ask("server.listen(200)")

    async def use() -> None:
        channel, _ = await connect(scene, at("127.0.0.1", port))
        await channel.aclose()

    async with trio.open_nursery() as nursery:
        for _ in range(150):
            nursery.start_soon(use)


async def test_more_connections_than_descriptors_are_allowed_to_begin_with() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with open_target(unshare=True, **({"outer_uid": NOBODY} if IS_ROOT else {})) as target:
            async with open_agent(target.pid) as agent:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                scene = Scene(target, agent)
                port = listen(scene)
                target.ask("server.listen(200)")
                for _ in range(150):
                    await connect(scene, at("127.0.0.1", port))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_what_was_sent_before_the_client_goes_still_arrives() -> None:
    ids = {"outer_uid": NOBODY} if IS_ROOT else {}
    with open_target(unshare=True, **ids) as target:
        async with open_agent(target.pid) as agent:
            channel = await connected(Scene(target, agent))
            await channel.send(b"last words")
            assert await trio.to_thread.run_sync(target.ask, "peer.recv(100)") == b"last words"
        assert await trio.to_thread.run_sync(target.ask, "peer.recv(100)") == b""


async def test_a_connection_belongs_to_the_targets_user() -> None:
    wanted = {"uid": NOBODY, "gid": NOBODY} if IS_ROOT else {}
    with open_target(**wanted) as target:
        async with open_agent(target.pid) as agent:
            channel, reply = await connect(Scene(target, agent), at("127.0.0.1", listen(Scene(target, agent))))
            table = await trio.Path("/proc/net/tcp").read_text()
            rows = [line.split() for line in table.splitlines()]
            local = f"0100007F:{reply.local.port:04X}"
            assert [row[7] for row in rows if row[1] == local] == [str(NOBODY if IS_ROOT else os.geteuid())]
            await channel.aclose()


FAULT = """
from mirror.agent import outgoing

async def carry_in(connected, channel, carry=outgoing._carry_in):
    if channel.id == 1:
        raise ValueError("an error on purpose")
    await carry(connected, channel)

outgoing._carry_in = carry_in
"""


async def test_an_error_while_carrying_one_connection_ends_that_one_only() -> None:
    with open_target() as target:
        async with open_agent(target.pid, fault=FAULT) as agent:
            scene = Scene(target, agent)
            port = listen(scene)
            failing, _ = await connect(scene, at("127.0.0.1", port))
            assert failing.id == 1
            target.ask("peer, _ = server.accept()")
            with pytest.raises(ChannelReset):
                await failing.receive()
            with pytest.raises(ConnectionResetError):
                target.ask("peer.recv(1)")
            await agent.noticed.wait()
            assert "an error in mirror's agent" in agent.notices[0]
            working, _ = await connect(scene, at("127.0.0.1", port))
            target.ask("other, _ = server.accept()")
            await working.send(b"still here")
            assert target.ask("other.recv(100).decode()") == "still here"
            await working.aclose()
            assert len(agent.notices) == 1
