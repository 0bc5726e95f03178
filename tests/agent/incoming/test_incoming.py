"""Mirrored and stolen connections, as callers, the target's own process and clients see them."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import struct

import pytest
import trio

from mirror.protocol.messages import Unsubscribe
from mirror.protocol.stream import ChannelReset, RequestFailed

from .small_agent import FAULTY_PORT
from .stage import (
    CALLER,
    LOOPBACK,
    PATIENCE_S,
    TARGET,
    AgentProcess,
    Client,
    Pod,
    make_pod,
    read_all,
    read_exactly,
    read_line,
    receive_all,
    run_agent,
    serving,
    until,
)


def reset(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
    stream.socket.close()


def packed(family: socket.AddressFamily, address: str) -> bytes:
    return socket.inet_pton(family, address)


async def test_stolen_connection_reaches_the_client_with_both_addresses(
    pod: Pod, client: Client, port: int, family: socket.AddressFamily
) -> None:
    async with serving(pod.listen(port, family)) as peers:
        await client.subscribe(port, steal=True)
        caller = await pod.connect(port, family)
        await caller.send_all(b"hello")
        accepted, channel = await client.accept()
        assert (accepted.local.address, accepted.local.port) == (packed(family, TARGET[family]), port)
        assert accepted.peer.address == packed(family, CALLER[family])
        assert accepted.peer.port == caller.socket.getsockname()[1]
        assert accepted.steal
        assert await channel.receive() == b"hello"
        await channel.send(b"from outside\n")
        assert await read_line(caller) == b"from outside\n"
        # half-close, each way by itself
        await caller.send_eof()
        assert await channel.receive() == b""
        await channel.send(b"and more")
        await channel.send_eof()
        assert await read_all(caller) == b"and more"
        assert peers == []


async def test_steal_where_nobody_listens(pod: Pod, client: Client, port: int) -> None:
    await client.subscribe(port, steal=True)
    caller = await pod.connect(port)
    _, channel = await client.accept()
    await channel.send(b"here\n")
    assert await read_line(caller) == b"here\n"


async def test_mirrored_connection_is_served_by_the_target_who_sees_its_caller(
    pod: Pod, client: Client, port: int, family: socket.AddressFamily
) -> None:
    async with serving(pod.listen(port, family)):
        await client.subscribe(port, steal=False)
        caller = await pod.connect(port, family)
        assert await read_line(caller) == f"target sees {CALLER[family]}\n".encode()
        accepted, channel = await client.accept()
        assert accepted.peer.address == packed(family, CALLER[family])
        assert accepted.peer.port == caller.socket.getsockname()[1]
        assert not accepted.steal
        await channel.send(b"what the program answers is dropped")
        await caller.send_all(b"question")
        assert await read_exactly(caller, 8) == b"question"
        await caller.send_eof()
        assert await read_all(caller) == b"end"
        assert await receive_all(channel) == b"question"


async def test_mirror_where_nobody_listens_is_refused_as_before(
    pod: Pod, client: Client, port: int, family: socket.AddressFamily, support: dict[str, bool]
) -> None:
    await client.subscribe(port, steal=False)
    with pytest.raises(ConnectionRefusedError):
        await pod.connect(port, family)
    if support:  # inside the target it comes a moment later
        caller = await pod.connect(port, family, where="target")
        with pytest.raises(trio.BrokenResourceError):
            await caller.receive_some(1)


async def test_several_ports(pod: Pod, client: Client, port: int) -> None:
    ports = [port + 1000, port + 2000, port + 3000]
    async with serving(pod.listen(ports[0])), serving(pod.listen(ports[1])), serving(pod.listen(ports[2])):
        await client.subscribe(ports[0], steal=True)
        await client.subscribe(ports[1], steal=False)
        callers = [await pod.connect(one) for one in ports]
        assert await read_line(callers[1]) == b"target sees 10.99.0.2\n"
        assert await read_line(callers[2]) == b"target sees 10.99.0.2\n"
        accepted = [(await client.accept())[0] for _ in range(2)]
        assert sorted((one.local.port, one.steal) for one in accepted) == [(ports[0], True), (ports[1], False)]
        assert not client.has_arrivals()


async def test_calls_from_inside_the_target_are_intercepted(
    pod: Pod, client: Client, port: int, family: socket.AddressFamily
) -> None:
    async with serving(pod.listen(port, family)) as peers:
        await client.subscribe(port, steal=True)
        for address in LOOPBACK[family], TARGET[family]:
            caller = await pod.connect(port, family, where="target", address=address)
            accepted, channel = await client.accept()
            assert accepted.local.address == accepted.peer.address == packed(family, address)
            await channel.send(b"outside\n")
            assert await read_line(caller) == b"outside\n"
        await client.subscribe(port, steal=False)
        for address in LOOPBACK[family], TARGET[family]:
            caller = await pod.connect(port, family, where="target", address=address)
            assert await read_line(caller) == f"target sees {address}\n".encode()
            await client.accept()
        assert peers == [LOOPBACK[family], TARGET[family]]


async def test_only_the_subscribed_address(pod: Pod, client: Client, port: int) -> None:
    async with serving(pod.listen(port)), serving(pod.listen(port, socket.AF_INET6)):
        await client.subscribe(port, steal=True, address=bytes([127, 0, 0, 1]))
        outside = await pod.connect(port)
        assert await read_line(outside) == b"target sees 10.99.0.2\n"
        await pod.connect(port, where="target", address="127.0.0.1")
        accepted, _ = await client.accept()
        assert accepted.local.address == bytes([127, 0, 0, 1])
        # all addresses of one family, in place of the former
        await client.subscribe(port, steal=True, address=bytes(4))
        await pod.connect(port)
        await client.accept()
        assert await read_line(await pod.connect(port, socket.AF_INET6)) == b"target sees fd99::2\n"
        assert not client.has_arrivals()


async def test_forwarded_traffic_is_left_alone(pod: Pod, client: Client, port: int) -> None:
    """Where the target is a whole machine, connections to others come through its prerouting too."""
    await client.subscribe(port, steal=True)
    with trio.fail_after(PATIENCE_S), pytest.raises(OSError, match=r"unreachable|No route"):
        await pod.connect(port, address="10.98.0.9")


async def test_connections_to_a_service_where_the_target_is_a_whole_machine(
    pod: Pod, client: Client, port: int, support: dict[str, bool]
) -> None:
    """Their destination is translated in the target's own network, as kube-proxy does it; a redirect comes too late."""
    service = "10.98.0.7"
    commands = (
        "add table ip services",
        "add chain ip services prerouting { type nat hook prerouting priority dstnat; }",
        f"add rule ip services prerouting ip daddr {service} tcp dport 80 dnat to 10.99.0.1:{port}",
    )
    pod.run("target", "nft", "; ".join(commands))
    try:
        async with serving(pod.listen(port)):
            older = await pod.connect(80, address=service)
            assert await read_line(older) == b"target sees 10.99.0.2\n"
            await client.subscribe(port, steal=False)
            assert await read_line(await pod.connect(80, address=service)) == b"target sees 10.99.0.2\n"
            await client.subscribe(port, steal=True)
            caller = await pod.connect(80, address=service)
            if support:
                assert await read_line(caller) == b"target sees 10.99.0.2\n"
            else:
                copied, _ = await client.accept()
                stolen, channel = await client.accept()
                assert (copied.steal, stolen.steal) == (False, True)
                assert (stolen.local.port, stolen.peer.address) == (port, bytes([10, 99, 0, 2]))
                await channel.send(b"stolen\n")
                assert await read_line(caller) == b"stolen\n"
            await older.send_all(b"alive\n")
            assert await read_line(older) == b"alive\n"
    finally:
        pod.run("target", "nft", "delete table ip services")


async def test_refused_connection_goes_to_the_target_with_all_that_was_sent(
    pod: Pod, client: Client, port: int
) -> None:
    async with serving(pod.listen(port)):
        await client.subscribe(port, steal=True)
        caller = await pod.connect(port)
        await caller.send_all(b"question")
        _, channel = await client.accept()
        assert await channel.receive() == b"question"
        await caller.send_eof()
        assert await channel.receive() == b""
        channel.reset(errno.ECONNREFUSED)
        assert await read_all(caller) == b"target sees 10.99.0.2\nquestionend"


async def test_other_resets_by_the_client_reach_the_caller(pod: Pod, client: Client, port: int) -> None:
    async with serving(pod.listen(port)) as peers:
        await client.subscribe(port, steal=True)
        caller = await pod.connect(port)
        _, channel = await client.accept()
        channel.reset(errno.ECONNRESET)
        with trio.fail_after(PATIENCE_S), pytest.raises(trio.BrokenResourceError) as raised:
            await caller.receive_some(1)
        assert isinstance(raised.value.__cause__, ConnectionResetError)
        assert peers == []


async def test_resets_by_the_caller_reach_the_client_and_the_target(pod: Pod, client: Client, port: int) -> None:
    await client.subscribe(port, steal=True)
    caller = await pod.connect(port)
    _, channel = await client.accept()
    reset(caller)
    with trio.fail_after(PATIENCE_S), pytest.raises(ChannelReset) as raised:
        await channel.receive()
    assert raised.value.errno == errno.ECONNRESET

    listener = pod.listen(port)
    await client.subscribe(port, steal=False)
    caller = await pod.connect(port)
    served = await listener.accept()
    _, channel = await client.accept()
    reset(caller)
    with trio.fail_after(PATIENCE_S), pytest.raises(trio.BrokenResourceError):
        await served.receive_some(1)
    await served.aclose()
    with trio.fail_after(PATIENCE_S), pytest.raises(ChannelReset):
        await channel.receive()
    await listener.aclose()


async def test_unsubscribe_gives_new_connections_back_and_keeps_those_handed_over(
    pod: Pod, client: Client, port: int
) -> None:
    async with serving(pod.listen(port)):
        await client.subscribe(port, steal=True)
        stolen = await pod.connect(port)
        _, channel = await client.accept()
        await client.subscribe(port, steal=False)
        mirrored = await pod.connect(port)
        await read_line(mirrored)
        await client.accept()
        await client.unsubscribe(port)
        assert await read_line(await pod.connect(port)) == b"target sees 10.99.0.2\n"
        assert not client.has_arrivals()
        await channel.send(b"still here\n")
        assert await read_line(stolen) == b"still here\n"
        await mirrored.send_all(b"me too\n")
        assert await read_line(mirrored) == b"me too\n"


async def test_connections_older_than_the_session_survive_its_beginning_and_end(
    pod: Pod, support: dict[str, bool], port: int, family: socket.AddressFamily
) -> None:
    async with serving(pod.listen(port, family)):
        older = await pod.connect(port, family)
        inside = await pod.connect(port, family, where="target", address=LOOPBACK[family])

        async def check() -> None:
            for stream in older, inside:
                await stream.send_all(b"alive\n")
                assert await read_line(stream) == b"alive\n"

        for stream in older, inside:
            await read_line(stream)
        async with run_agent(pod, **support) as agent:
            await agent.client.subscribe(port, steal=False)
            await check()
            # With a caller from outside the address translation begins, and connection tracking with it.
            await read_line(await pod.connect(port, family))
            await check()
            await agent.client.subscribe(port, steal=True)
            await check()
        await check()


async def test_a_large_stream_both_ways(pod: Pod, client: Client, port: int) -> None:
    content = bytes(range(256)) * (1 << 13)  # 2 MiB
    await client.subscribe(port, steal=True)
    caller = await pod.connect(port)
    _, channel = await client.accept()
    received: list[bytes] = []

    async def echo() -> None:
        while data := await channel.receive():
            await channel.send(data)
        await channel.send_eof()

    async def read() -> None:
        received.append(await read_all(caller))

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            nursery.start_soon(read)
            await caller.send_all(content)
            await caller.send_eof()
    assert received == [content]


async def test_a_client_that_does_not_read_holds_up_its_caller(pod: Pod, client: Client, port: int) -> None:
    await client.subscribe(port, steal=True)
    caller = await pod.connect(port)
    _, channel = await client.accept()
    sent = 0
    with contextlib.suppress(BlockingIOError):
        caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        while sent < 64 << 20:
            with trio.move_on_after(0.5) as waited:
                sent += await caller.socket.send(bytes(1 << 16))
            if waited.cancelled_caught:
                break
    assert sent < 32 << 20
    received = 0
    await caller.send_eof()
    with trio.fail_after(PATIENCE_S):
        while data := await channel.receive():
            received += len(data)
    assert received == sent


async def test_a_mirroring_client_that_does_not_read_never_holds_up_the_target(
    pod: Pod, client: Client, port: int
) -> None:
    async with serving(pod.listen(port)):
        await client.subscribe(port, steal=False)
        caller = await pod.connect(port)
        await read_line(caller)
        _, channel = await client.accept()
        other = await pod.connect(port)
        await read_line(other)
        _, other_channel = await client.accept()
        size = 12 << 20
        echoed: list[int] = []

        async def read() -> None:
            echoed.append(len(await read_exactly(caller, size)))

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await caller.send_all(bytes(size))
        assert echoed == [size]
        assert "more slowly" in await client.notice()
        with pytest.raises(ChannelReset) as raised:
            await receive_all(channel)
        assert raised.value.errno == errno.ENOBUFS
        # Only that one: another mirrored connection goes on.
        await other.send_all(b"still\n")
        assert await read_line(other) == b"still\n"
        assert await other_channel.receive() == b"still\n"


async def test_a_client_that_leaves_in_the_middle(pod: Pod, agent: AgentProcess, port: int) -> None:
    """Its callers learn at once, and those of the target's process not at all."""
    size = 16 << 20
    async with serving(pod.listen(port)), agent.client() as leaving, agent.client() as staying:
        await leaving.subscribe(port, steal=True)
        stolen = await pod.connect(port)
        await leaving.accept()
        await leaving.subscribe(port, steal=False)
        await staying.subscribe(port, steal=False)
        mirrored = await pod.connect(port)
        _, channel = await leaving.accept()
        assert await read_line(mirrored) == b"target sees 10.99.0.2\n"

        async def leave_then_read() -> None:
            with trio.fail_after(PATIENCE_S):
                await channel.receive()
                await leaving.peer.aclose()
            assert len(await read_exactly(mirrored, size)) == size

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave_then_read)
            await mirrored.send_all(bytes(size))
        with pytest.raises(trio.BrokenResourceError):
            await read_all(stolen)


async def test_a_target_whose_uid_is_not_0_in_its_user_namespace(port: int) -> None:
    """There an exec takes the capabilities away that entering the namespace gave."""
    with make_pod(uid=1000) as pod:
        async with serving(pod.listen(port)), run_agent(pod) as agent:
            await agent.client.subscribe(port, steal=False)
            caller = await pod.connect(port)
            assert await read_line(caller) == b"target sees 10.99.0.2\n"
            await agent.client.accept()
        pod.close_connections()


async def test_two_clients(pod: Pod, support: dict[str, bool], port: int) -> None:
    async with serving(pod.listen(port)), run_agent(pod, clients=2, **support) as agent:
        one, two = agent.clients
        await one.subscribe(port, steal=False)
        await two.subscribe(port, steal=False)
        caller = await pod.connect(port)
        await read_line(caller)
        await caller.send_all(b"both")
        await caller.send_eof()
        for client in one, two:
            _, channel = await client.accept()
            assert await receive_all(channel) == b"both"

        await one.subscribe(port, steal=True)
        with pytest.raises(RequestFailed) as raised:
            await two.subscribe(port, steal=True)
        assert raised.value.errno == errno.EADDRINUSE
        assert re.fullmatch(
            rf"port {port} of the target is taken by another session since \d\d:\d\d UTC; wait until that session has"
            r" ended, or mirror the port",
            raised.value.reason,
        )
        # What one steals the other still mirrors.
        caller = await pod.connect(port)
        await caller.send_all(b"copied")
        _, stolen = await one.accept()
        _, copied = await two.accept()
        assert await stolen.receive() == await copied.receive() == b"copied"

        # The one that goes away leaves the port to the other, and what it had stolen is reset.
        await one.peer.aclose()
        with trio.fail_after(PATIENCE_S), pytest.raises(trio.BrokenResourceError):
            await caller.receive_some(1)

        async def stolen_by_two() -> bool:
            try:
                await two.subscribe(port, steal=True)
            except RequestFailed:
                return False
            return True

        await until(stolen_by_two)
        await pod.connect(port)
        assert (await two.accept())[0].steal


async def test_two_agents_in_one_target(pod: Pod, support: dict[str, bool], port: int) -> None:
    async with serving(pod.listen(port)) as peers, run_agent(pod, **support) as one, run_agent(pod, **support) as two:
        await one.client.subscribe(port, steal=False)
        await two.client.subscribe(port, steal=False)
        caller = await pod.connect(port)
        assert await read_line(caller) == b"target sees 10.99.0.2\n"
        await caller.send_all(b"both")
        await caller.send_eof()
        for agent in one, two:
            accepted, channel = await agent.client.accept()
            assert accepted.peer.address == packed(socket.AF_INET, "10.99.0.2")
            assert await receive_all(channel) == b"both"
        assert peers == ["10.99.0.2"]
        await one.client.subscribe(port, steal=True)
        with pytest.raises(RequestFailed) as raised:
            await two.client.subscribe(port, steal=True)
        assert raised.value.errno == errno.EADDRINUSE
        await one.client.unsubscribe(port)
        await two.client.subscribe(port, steal=True)


async def test_requests_in_progress_at_the_end_are_answered(pod: Pod, support: dict[str, bool], port: int) -> None:
    listener = pod.listen(port)
    async with run_agent(pod, **support) as agent:
        await agent.client.subscribe(port, steal=False)
        caller = await pod.connect(port)
        await caller.send_all(b"question")
        served = await listener.accept()
        assert await read_exactly(served, 8) == b"question"
        await agent.client.peer.aclose()

        async def not_intercepted() -> bool:
            return "dport" not in pod.run("target", "nft", "list", "ruleset")

        await until(not_intercepted)
        await served.send_all(b"answer")
        await served.aclose()
        assert await read_all(caller) == b"answer"
    await listener.aclose()


@pytest.mark.parametrize("steal", [True, False], ids=["steal", "mirror"])
async def test_an_error_while_serving_a_connection_ends_that_connection_only(
    pod: Pod, port: int, steal: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serving(pod.listen(FAULTY_PORT)), serving(pod.listen(port)), run_agent(pod) as agent:
        client = agent.client
        await client.subscribe(port, steal=True)
        stolen = await pod.connect(port)
        _, channel = await client.accept()
        await client.subscribe(FAULTY_PORT, steal=steal)
        for _ in range(2):
            if steal:
                # The reset may come before connect() has returned.
                with pytest.raises((trio.BrokenResourceError, ConnectionResetError)):
                    await read_all(await pod.connect(FAULTY_PORT))
            else:  # only its copy has failed
                caller = await pod.connect(FAULTY_PORT)
                assert await read_line(caller) == b"target sees 10.99.0.2\n"
            assert await client.notice() == (
                f"connections to port {FAULTY_PORT} of the target were cut off by an error in mirror's agent; please"
                " report it with the file that MIRROR_LOG=FILE lets mirror write"
            )
        await channel.send(b"still here\n")
        assert await read_line(stolen) == b"still here\n"
        await pod.connect(port)
        await client.accept()
    errors = capfd.readouterr().err
    assert errors.count("Traceback") >= 2
    assert "an error on purpose" in errors


@pytest.mark.parametrize(
    ("served_at", "listens_at", "said"),
    [
        ("", "127.0.0.1", "127.0.0.1:{} only, so callers from outside go to the target alone: let it bind 0.0.0.0 to"),
        ("::", "127.0.0.1", "127.0.0.1:{} only, so"),
        ("::", "::1", "[::1]:{} only, so callers from outside go to the target alone: let it bind :: to get them"),
        ("127.0.0.1", "127.0.0.1", None),
        ("::1", "127.0.0.1", None),
        ("", "10.99.0.1", None),
        ("", "", None),
    ],
)
async def test_a_program_on_loopback_is_told_of_the_callers_that_it_does_not_get(
    pod: Pod, client: Client, port: int, served_at: str, listens_at: str, said: str | None
) -> None:
    families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in (served_at, listens_at)]
    async with serving(pod.listen(port, families[0], served_at)):
        await client.subscribe(port, steal=True, address=packed(families[1], listens_at) if listens_at else b"")
        await client.peer.request(Unsubscribe(port))  # answered after whatever notice there is
        if said is None:
            assert not client.has_notices()
        else:
            assert said.format(port) in await client.notice()


async def test_nobody_is_let_in_by_the_back_door(pod: Pod, client: Client, port: int, support: dict[str, bool]) -> None:
    await client.subscribe(port, steal=True)
    rules = pod.run("target", "nft", "list", "ruleset")
    marker = "dnat ip to :" if support else "127.0.0.1:"
    listener_port = int(rules.partition(marker)[2].split()[0])
    if support:
        caller = await pod.connect(listener_port)
    else:
        with pytest.raises(ConnectionRefusedError):
            await pod.connect(listener_port)
        caller = await pod.connect(listener_port, where="target", address="127.0.0.1")
    with trio.fail_after(PATIENCE_S), contextlib.suppress(trio.BrokenResourceError):
        assert await caller.receive_some(1) == b""
    assert not client.has_arrivals()
