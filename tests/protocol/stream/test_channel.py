"""Channels between two peers: order, credit, ends, resets, owners that come late or leave early."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

from mirror.protocol import messages as m
from mirror.protocol.channels import INITIAL_WINDOW_BYTES
from mirror.protocol.stream import (
    Channel,
    ChannelReset,
    RequestFailed,
)
from tests.protocol.links import (
    HERE,
    MIB,
    STAT_FILE,
    STATTED,
    MakePair,
    connect,
    connect_channels,
    count_all,
    receive_all,
    send_and_end,
)


async def test_a_channel_carries_bytes_both_ways_and_ends_each_way(make_pair: MakePair) -> None:
    async with connect_channels(make_pair()) as (client, agent, [ours], [theirs]):
        await ours.send(b"question")
        assert await theirs.receive() == b"question"
        await ours.send_eof()
        await ours.send_eof()
        assert await theirs.receive() == b""
        await theirs.send(b"answer")
        await theirs.send_eof()
        assert await ours.receive() == b"answer"
        assert await ours.receive() == await ours.receive() == b""
        assert len(client.connection.channels) == len(agent.connection.channels) == 0


async def test_received_bytes_are_cut_and_joined_as_asked_for(make_pair: MakePair) -> None:
    async with connect_channels(make_pair()) as (client, _, [ours], [theirs]):
        for piece in (b"abcdef", b"gh", b"ijklm", b"n"):
            await ours.send(piece)
        await ours.send(b"")
        await client.request(STAT_FILE)
        assert [await theirs.receive(size) for size in (1, 3, 4, 5)] == [b"a", b"bcd", b"efgh", b"ijklm"]
        assert await theirs.receive() == b"n"


async def test_a_hundred_megabytes_both_ways_at_once(make_pair: MakePair) -> None:
    async with connect_channels(make_pair()) as (_, _, [ours], [theirs]), trio.open_nursery() as nursery:
        counts = []

        async def count(channel: Channel) -> None:
            counts.append(await count_all(channel))

        for channel in (ours, theirs):
            nursery.start_soon(send_and_end, channel, b"x" * MIB, 50)
            nursery.start_soon(count, channel)
    assert counts == [50 * MIB, 50 * MIB]


async def test_a_stalled_channel_does_not_stall_the_others(make_pair: MakePair) -> None:
    data = bytes(range(256)) * 4096
    async with connect_channels(make_pair(), 30) as (client, _, ours, theirs), trio.open_nursery() as nursery:
        for channel in ours:
            nursery.start_soon(send_and_end, channel, data)
        for channel in theirs[1:]:
            assert await receive_all(channel) == data
            assert await client.request(STAT_FILE) == STATTED
        assert sum(map(len, theirs[0]._received)) == INITIAL_WINDOW_BYTES
        assert await receive_all(theirs[0]) == data


async def test_what_is_held_for_an_owner_that_does_not_read_is_bounded(make_pair: MakePair) -> None:
    async with connect_channels(make_pair(), 5) as (client, _, ours, theirs), trio.open_nursery() as nursery:
        for channel in ours:
            nursery.start_soon(channel.send, b"x" * (4 * MIB))
        for _ in range(20):
            await client.request(STAT_FILE)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert [sum(map(len, channel._received)) for channel in theirs] == [INITIAL_WINDOW_BYTES] * 5
        nursery.cancel_scope.cancel()


async def test_a_reset_comes_after_what_has_arrived(make_pair: MakePair) -> None:
    async with connect_channels(make_pair()) as (_, _, [ours], [theirs]):
        await theirs.send(b"last words")
        theirs.reset(errno.ECONNRESET)
        assert await ours.receive() == b"last words"
        for _ in range(2):
            with pytest.raises(ChannelReset) as reset:
                await ours.receive()
            assert reset.value.errno == errno.ECONNRESET
        with pytest.raises(ChannelReset):
            await ours.send(b"into the void")
        with pytest.raises(ChannelReset):
            await ours.send_eof()
        with pytest.raises(ChannelReset):
            await theirs.receive()


async def test_a_reset_wakes_those_who_wait(make_pair: MakePair) -> None:
    async def fail(function: object) -> None:
        with pytest.raises(ChannelReset):
            await function()  # type: ignore[operator]

    async with connect_channels(make_pair()) as (_, _, [ours], [theirs]), trio.open_nursery() as nursery:
        nursery.start_soon(fail, ours.receive)
        nursery.start_soon(fail, lambda: ours.send(b"x" * MIB))
        await trio.testing.wait_all_tasks_blocked(0.01)
        theirs.reset()


async def test_an_end_that_came_counts_more_than_a_reset(make_pair: MakePair) -> None:
    """As with TCP: a FIN that was received stays."""
    async with connect_channels(make_pair()) as (client, _, [ours], [theirs]):
        await send_and_end(theirs, b"all of it")
        theirs.reset(errno.ECONNRESET)
        await client.request(STAT_FILE)
        assert await receive_all(ours) == b"all of it"


async def test_closing_after_the_end_does_not_cut_off(make_pair: MakePair) -> None:
    data = b"x" * (3 * MIB)

    async def serve(channel: Channel) -> None:
        await send_and_end(channel, data)
        await channel.aclose()

    async with connect_channels(make_pair()) as (client, agent, [ours], [theirs]):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, theirs)
            assert await receive_all(ours) == data
        ours.close()
        await client.request(STAT_FILE)
        assert len(client.connection.channels) == len(agent.connection.channels) == 0


async def test_closing_early_resets(make_pair: MakePair) -> None:
    async with connect_channels(make_pair()) as (_, _, [ours], [theirs]):
        ours.close()
        ours.close()
        with pytest.raises(ChannelReset):
            await theirs.receive()
        with pytest.raises(ChannelReset):
            await ours.receive()


async def test_a_cancelled_channel_call_leaves_the_channel_usable(make_pair: MakePair) -> None:
    async with connect_channels(make_pair()) as (_, _, [ours], [theirs]):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.receive)
                nursery.start_soon(ours.send, b"x" * MIB)
                await trio.testing.wait_all_tasks_blocked(0.01)
                scope.cancel()
        await theirs.send(b"still here")
        assert await ours.receive() == b"still here"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_end, ours, b"y" * 10)
            received = await receive_all(theirs)
        assert received.rstrip(b"y") == b"x" * INITIAL_WINDOW_BYTES
        assert received.endswith(b"y" * 10)


async def test_one_task_sends_and_one_receives(make_pair: MakePair) -> None:
    async with connect_channels(make_pair()) as (_, _, [ours], _), trio.open_nursery() as nursery:
        nursery.start_soon(ours.receive)
        nursery.start_soon(ours.send, b"x" * MIB)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(trio.BusyResourceError):
            await ours.receive()
        with pytest.raises(trio.BusyResourceError):
            await ours.send(b"x")
        with pytest.raises(trio.BusyResourceError):
            await ours.send_eof()
        nursery.cancel_scope.cancel()


async def test_a_channel_that_nobody_takes_is_reset(make_pair: MakePair) -> None:
    async def agent(message: m.Message) -> m.Message:
        assert isinstance(message, m.Connect)
        return m.Connected(HERE, message.endpoint)

    async def client(message: m.Message) -> None:
        assert isinstance(message, m.Accepted)

    async with connect(make_pair(), client=client, agent=agent) as (ours, theirs):
        channel = ours.open_channel()
        await ours.request(m.Connect(channel.id, HERE))
        with pytest.raises(ChannelReset):
            await channel.receive()
        channel = theirs.open_channel()
        await theirs.notify(m.Accepted(channel.id, HERE, HERE, steal=True))
        with pytest.raises(ChannelReset):
            await channel.receive()


async def test_a_failed_request_ends_its_channel(make_pair: MakePair) -> None:
    taken = []

    async def agent(message: m.Message) -> m.Message:
        assert isinstance(message, m.Connect)
        taken.append(theirs.accept_channel(message.channel))
        raise RequestFailed(errno.ECONNREFUSED)

    async with connect(make_pair(), agent=agent) as (ours, theirs):
        channel = ours.open_channel()
        with pytest.raises(RequestFailed, match="Connection refused"):
            await ours.request(m.Connect(channel.id, HERE))
        for end in (channel, *taken):
            with pytest.raises(ChannelReset):
                await end.receive()
        assert len(ours.connection.channels) == len(theirs.connection.channels) == 0


async def test_a_channel_given_up_while_the_agent_connects(make_pair: MakePair) -> None:
    go_on, done = trio.Event(), trio.Event()

    async def agent(message: m.Message) -> m.Message:
        assert isinstance(message, m.Connect)
        await go_on.wait()
        channel = theirs.accept_channel(message.channel)
        with pytest.raises(ChannelReset):
            await channel.receive()
        channel.close()
        done.set()
        return m.Connected(HERE, HERE)

    async with connect(make_pair(), agent=agent) as (ours, theirs):
        channel = ours.open_channel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.request, m.Connect(channel.id, HERE))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        channel.close()
        await trio.testing.wait_all_tasks_blocked(0.01)
        go_on.set()
        await done.wait()


async def test_a_connection_accepted_by_the_agent(make_pair: MakePair) -> None:
    accepted = trio.Event()
    taken: list[Channel] = []

    async def client(message: m.Message) -> None:
        assert isinstance(message, m.Accepted)
        taken.append(ours.accept_channel(message.channel))
        accepted.set()

    async with connect(make_pair(), client=client) as (ours, theirs):
        channel = theirs.open_channel()
        await theirs.notify(m.Accepted(channel.id, HERE, HERE, steal=True))
        await send_and_end(channel, b"GET / HTTP/1.1")
        await accepted.wait()
        assert await receive_all(taken[0]) == b"GET / HTTP/1.1"
        await send_and_end(taken[0], b"200 OK")
        assert await receive_all(channel) == b"200 OK"


async def test_too_many_channels_are_an_errno(make_pair: MakePair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.protocol.channels.MAX_CHANNELS", 2)
    async with connect(make_pair()) as (client, _):
        first, _second = client.open_channel(), client.open_channel()
        with pytest.raises(RequestFailed) as failed:
            client.open_channel()
        assert failed.value.errno == errno.EMFILE
        first.close()
        client.open_channel()
