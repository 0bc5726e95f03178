"""Requests, notifications and the end of a connection, between two peers or a peer and a raw end."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Awaitable

import pytest
import trio
import trio.testing

from mirror.protocol import heartbeat
from mirror.protocol import messages as m
from mirror.protocol.channels import INITIAL_WINDOW_BYTES, MAX_PAYLOAD_BYTES
from mirror.protocol.connection import MAX_REQUESTS, TargetEnded
from mirror.protocol.frame import encode_frame
from mirror.protocol.stream import (
    ConnectionLost,
    LocalProtocolError,
    Peer,
    RemoteProtocolError,
    RequestFailed,
)
from mirror.protocol.stream import peer as peer_module
from tests.protocol.links import (
    HERE,
    MIB,
    STAT,
    STAT_FILE,
    STATTED,
    MakePair,
    Raw,
    connect,
    memory_pair,
    never_answer,
    refuse,
    run_until_told,
)

# --- requests ---


async def test_a_request_gets_its_answer(make_pair: MakePair) -> None:
    async def agent(message: m.Message) -> m.Message:
        match message:
            case m.StatFile(path=b"/there"):
                return STATTED
            case _:
                raise RequestFailed(errno.ENOENT, "not there")

    async with connect(make_pair(), agent=agent) as (client, _):
        answer = await client.request(m.StatFile(b"/there", follow=True), m.FileStatted)
        assert answer.stat == STAT
        with pytest.raises(RequestFailed, match="not there") as failed:
            await client.request(m.StatFile(b"/elsewhere", follow=True))
        assert failed.value.errno == errno.ENOENT
        assert client.requests_sent == {"StatFile": 2}


async def test_a_slow_request_does_not_hold_up_the_others(make_pair: MakePair) -> None:
    go_on = trio.Event()
    answered = []

    async def agent(message: m.Message) -> m.Message:
        if message == m.ReadLink(b"/slow"):
            await go_on.wait()
        return m.LinkRead(b"target")

    async def ask(client: Peer, path: bytes) -> None:
        await client.request(m.ReadLink(path))
        answered.append(path)

    async with connect(make_pair(), agent=agent) as (client, _), trio.open_nursery() as nursery:
        nursery.start_soon(ask, client, b"/slow")
        await trio.testing.wait_all_tasks_blocked()
        await ask(client, b"/quick")
        go_on.set()
    assert answered == [b"/quick", b"/slow"]


async def test_both_sides_may_ask(make_pair: MakePair) -> None:
    async def client(message: m.Message) -> m.Message:
        return m.LinkRead(b"client")

    async with connect(make_pair(), client=client) as (_, agent):
        assert await agent.request(m.ReadLink(b"/x")) == m.LinkRead(b"client")


async def test_more_requests_than_may_be_under_way_wait(make_pair: MakePair) -> None:
    under_way = most = 0

    async def agent(message: m.Message) -> m.Message:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await trio.lowlevel.checkpoint()
        under_way -= 1
        return STATTED

    async with connect(make_pair(), agent=agent) as (client, _), trio.open_nursery() as nursery:
        for _ in range(3 * MAX_REQUESTS):
            nursery.start_soon(client.request, STAT_FILE)
    assert client.requests_sent["StatFile"] == 3 * MAX_REQUESTS
    assert most <= MAX_REQUESTS


async def test_a_request_waits_for_abandoned_ones_to_be_answered(make_pair: MakePair) -> None:
    go_on = trio.Event()

    async def agent(message: m.Message) -> m.Message:
        await go_on.wait()
        return STATTED

    async with connect(make_pair(), agent=agent) as (client, _):
        async with trio.open_nursery() as nursery:
            for _ in range(MAX_REQUESTS):
                nursery.start_soon(client.request, STAT_FILE)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.request, STAT_FILE)
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()


async def test_the_answer_to_a_cancelled_request_is_ignored(make_pair: MakePair) -> None:
    go_on = trio.Event()

    async def agent(message: m.Message) -> m.Message:
        if message == m.ReadLink(b"/slow"):
            await go_on.wait()
        return m.LinkRead(b"target of " + message.path if isinstance(message, m.ReadLink) else b"")

    async with connect(make_pair(), agent=agent) as (client, _):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.request, m.ReadLink(b"/slow"))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        go_on.set()
        assert await client.request(m.ReadLink(b"/next")) == m.LinkRead(b"target of /next")


async def test_a_bug_in_a_handler_costs_one_request(make_pair: MakePair, caplog: pytest.LogCaptureFixture) -> None:
    async def agent(message: m.Message) -> m.Message:
        if isinstance(message, m.StatFile):
            return m.LinkRead(b"what?")
        if isinstance(message, m.ReadLink):
            raise ZeroDivisionError("oops")
        return m.EnvironmentRead((b"A=1",))

    async with connect(make_pair(), agent=agent) as (client, _):
        with caplog.at_level(logging.CRITICAL + 1), pytest.raises(RequestFailed, match="oops") as failed:
            await client.request(m.ReadLink(b"/x"))
        assert failed.value.errno == errno.EIO
        with pytest.raises(RequestFailed, match="LinkRead does not answer StatFile"):
            await client.request(STAT_FILE)
        assert await client.request(m.ReadEnvironment()) == m.EnvironmentRead((b"A=1",))


async def test_what_may_not_be_asked_is_refused_here(make_pair: MakePair) -> None:
    async with connect(make_pair(), agent=refuse) as (client, _):
        with pytest.raises(LocalProtocolError, match="is not a request"):
            await client.request(STATTED)
        with pytest.raises(LocalProtocolError, match="cannot send StatFile"):
            await client.request(m.StatFile(b"/" * 5000, follow=True))
        with pytest.raises(LocalProtocolError, match="is not a notification"):
            await client.notify(STAT_FILE)
        with pytest.raises(RequestFailed, match="not expected"):
            await client.request(STAT_FILE)


async def test_notifications_are_handled_in_order_one_at_a_time(make_pair: MakePair) -> None:
    heard: list[str] = []
    all_heard = trio.Event()

    async def client(message: m.Message) -> None:
        assert isinstance(message, m.Notice)
        heard.append("begin " + message.text)
        await trio.lowlevel.checkpoint()
        heard.append("end " + message.text)
        if message.text == "4":
            all_heard.set()
        if message.text == "2":
            raise RequestFailed(errno.EIO, "nobody hears of this")

    async with connect(make_pair(), client=client) as (_, agent):
        for number in range(5):
            await agent.notify(m.Notice(str(number)))
        await all_heard.wait()
    assert heard == [f"{what} {number}" for number in range(5) for what in ("begin", "end")]


# --- the end ---


async def expect_lost(reason: str, function: object, *args: object) -> None:
    with pytest.raises(ConnectionLost, match=reason):
        await function(*args)  # type: ignore[operator]


async def test_losing_the_connection_reaches_everybody(make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    raw = Raw(theirs)
    client = Peer(ours, is_client=True, handler=refuse)
    lost = "the agent has gone away without a word"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.introduce)
        nursery.start_soon(expect_lost, lost, client.run)
        await client.handshake()
        channel = client.open_channel()
        nursery.start_soon(expect_lost, lost, client.request, m.Connect(channel.id, HERE))
        nursery.start_soon(expect_lost, lost, channel.receive)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(expect_lost, lost, channel.send, b"x" * MIB)
        await trio.testing.wait_all_tasks_blocked(0.01)
        # Read what has come: a socket that is closed with unread data resets instead.
        while not isinstance(frame := await raw.receive(), tuple) or not isinstance(frame[1], m.Connect):
            pass
        for _ in range(INITIAL_WINDOW_BYTES // MAX_PAYLOAD_BYTES):
            await raw.receive()
        await theirs.aclose()
    for call in (
        lambda: client.request(STAT_FILE),
        lambda: client.notify(m.Notice("x")),
        channel.receive,
        channel.send_eof,
    ):
        await expect_lost(lost, call)
    await expect_lost(lost, channel.send, b"x")
    with pytest.raises(ConnectionLost, match=lost):
        client.open_channel()
    with pytest.raises(ConnectionLost, match=lost):
        await client.accept_channel(2).receive()
    channel.close()
    await client.aclose()


async def test_goodbye_says_why(make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    client = Peer(ours, is_client=True, handler=refuse)
    agent = Peer(theirs, is_client=False, handler=never_answer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent.run)
        nursery.start_soon(expect_lost, "the pod is gone", client.run)
        nursery.start_soon(expect_lost, "the pod is gone", client.request, STAT_FILE)
        await client.handshake()
        await trio.testing.wait_all_tasks_blocked(0.01)
        await agent.aclose("the pod is gone")


async def test_that_the_target_has_ended_is_told_to_all_who_wait(make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    client = Peer(ours, is_client=True, handler=refuse)
    agent = Peer(theirs, is_client=False, handler=never_answer)
    ends: list[Exception] = []

    async def note(asking: Awaitable[object]) -> None:
        with pytest.raises(TargetEnded, match="process 42 has ended") as caught:
            await asking
        ends.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent.run)
        nursery.start_soon(note, client.run())
        await client.handshake()
        nursery.start_soon(note, client.request(STAT_FILE))
        await trio.testing.wait_all_tasks_blocked(0.01)
        await agent.aclose("process 42 has ended", is_targets_end=True)
    assert len(ends) == 2
    with pytest.raises(TargetEnded):
        await client.request(STAT_FILE)


async def test_an_agent_that_refuses_at_once(make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    client = Peer(ours, is_client=True, handler=refuse)
    await Raw(theirs).send((0, m.Goodbye("no such process: 42")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_lost, "no such process: 42", client.handshake)
        with pytest.raises(ConnectionLost, match="no such process: 42"):
            await nursery.start(client.run)


async def test_a_malformed_frame_ends_the_connection_and_says_so(make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    raw = Raw(theirs)
    client = Peer(ours, is_client=True, handler=refuse)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.introduce)

        async def run() -> None:
            with pytest.raises(RemoteProtocolError, match="malformed frame"):
                await client.run()

        nursery.start_soon(run)
        await client.handshake()
        nursery.start_soon(expect_lost, "malformed frame", client.request, STAT_FILE)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await raw.receive() == (1, STAT_FILE)
        await theirs.send_all(b"\0\0\0\3abc")
        frame = await raw.receive()
        assert frame is not None
        assert isinstance(frame[1], m.Goodbye)
        assert frame[1].reason.startswith("the agent broke the protocol: malformed frame")
        assert await raw.receive() is None


async def test_why_the_other_side_left_is_read_even_if_writing_fails(make_socket_pair: MakePair) -> None:
    """It says goodbye and closes while this side is sending: EPIPE is not the reason to show."""
    for _ in range(10):  # trio decides by lot whether the reader or the writer finds out first
        ours, theirs = make_socket_pair()
        assert isinstance(theirs, trio.SocketStream)
        raw = Raw(theirs)
        client = Peer(ours, is_client=True, handler=refuse)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raw.introduce)
            nursery.start_soon(expect_lost, "node is shutting down", client.run)
            await client.handshake()
            for _ in range(200):
                nursery.start_soon(expect_lost, "node is shutting down", client.request, m.ReadLink(b"/" * 4000))
            await trio.testing.wait_all_tasks_blocked(0.01)
            # Both before the client runs again.
            os.write(theirs.socket.fileno(), encode_frame(0, m.Goodbye("node is shutting down")))
            theirs.socket.close()


async def test_cancelling_run_says_goodbye(make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    raw = Raw(theirs)
    client = Peer(ours, is_client=True, handler=refuse)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.introduce)
        await nursery.start(client.run)
        nursery.cancel_scope.cancel()
    if make_pair is not memory_pair:
        assert await raw.receive() == (0, m.Goodbye(""))
    assert await raw.receive() is None
    await expect_lost("has been closed", client.request, STAT_FILE)


async def test_what_the_other_side_does_after_our_goodbye_is_no_failure() -> None:
    """It may have left before our own call that wrote the goodbye has returned."""
    ours, theirs = trio.testing.memory_stream_pair()
    raw = Raw(theirs)
    client = Peer(ours, is_client=True, handler=refuse)
    left = trio.Event()
    deliver = ours.send_stream.send_all_hook
    assert deliver is not None

    async def wait_until_left() -> None:
        await deliver()
        await left.wait()
        await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.introduce)
        await nursery.start(client.run)
        ours.send_stream.send_all_hook = wait_until_left
        nursery.start_soon(client.aclose, "that was all")
        assert await raw.receive() == (0, m.Goodbye("that was all"))
        await theirs.aclose()
        left.set()


async def test_nothing_follows_our_goodbye() -> None:
    """Neither what is asked or told while it is being written, nor the answer to what was asked before."""
    ours, theirs = trio.testing.memory_stream_pair()
    raw = Raw(theirs)
    answered, left = trio.Event(), trio.Event()
    deliver = ours.send_stream.send_all_hook
    assert deliver is not None

    async def answer_late(message: m.Message) -> m.Message:
        await answered.wait()
        return m.LinkRead(b"target")

    async def wait_until_left() -> None:
        await deliver()
        await left.wait()

    client = Peer(ours, is_client=True, handler=answer_late)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.introduce)
        await nursery.start(client.run)
        await raw.send((1, m.ReadLink(b"/link")))
        await trio.testing.wait_all_tasks_blocked()
        ours.send_stream.send_all_hook = wait_until_left
        nursery.start_soon(client.aclose, "that was all")
        assert await raw.receive() == (0, m.Goodbye("that was all"))
        await expect_lost("has been closed", client.request, STAT_FILE)
        await expect_lost("has been closed", client.notify, m.Notice("too late"))
        with pytest.raises(ConnectionLost, match="has been closed"):
            client.open_channel()
        answered.set()
        await trio.testing.wait_all_tasks_blocked()
        left.set()
        assert await raw.receive() is None


async def test_aclose_before_and_after_run(make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    client = Peer(ours, is_client=True, handler=refuse)
    await client.aclose()
    await client.run()
    await client.aclose()
    await theirs.aclose()


# --- heartbeat ---


async def test_a_silent_agent_is_noticed(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = memory_pair()
    raw = Raw(theirs)
    client = Peer(ours, is_client=True, handler=refuse)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.introduce)
        await nursery.start(expect_run_lost, client)
        began = trio.current_time()
        await expect_lost(f"has not answered for {heartbeat.LOST_AFTER_S:.0f} seconds", client.request, STAT_FILE)
        assert trio.current_time() - began <= heartbeat.LOST_AFTER_S + 2 * heartbeat.TICK_S


async def expect_run_lost(client: Peer, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
    with pytest.raises(ConnectionLost, match=f"the agent has not answered for {heartbeat.LOST_AFTER_S:.0f} seconds"):
        await client.run(task_status=task_status)


async def test_an_agent_that_never_introduces_itself_is_noticed(autojump_clock: trio.testing.MockClock) -> None:
    ours, _theirs = memory_pair()
    await expect_run_lost(Peer(ours, is_client=True, handler=refuse))


async def test_a_quiet_connection_lives_on(autojump_clock: trio.testing.MockClock) -> None:
    async def agent(message: m.Message) -> m.Message:
        return STATTED

    async with connect(memory_pair(), agent=agent) as (client, _):
        await trio.sleep(3600)
        assert await client.request(STAT_FILE) == STATTED
        assert client.requests_sent == {"StatFile": 1}


async def test_more_notifications_than_can_be_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "MAX_WAITING_NOTIFICATIONS", 10)
    ours, theirs = memory_pair()
    raw = Raw(theirs)
    client = Peer(ours, is_client=True, handler=never_answer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.introduce)
        await raw.send(*[(0, m.Welcome(1))], *[(0, m.Notice("spam"))] * 20)
        with pytest.raises(RemoteProtocolError, match="more notifications"):
            await client.run()
        nursery.cancel_scope.cancel()


async def test_two_sides_that_both_end_it(make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    client = Peer(ours, is_client=True, handler=refuse)
    agent = Peer(theirs, is_client=False, handler=refuse)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_until_told, client, "b")
        nursery.start_soon(run_until_told, agent, "a")
        await client.handshake()
        nursery.start_soon(client.aclose, "a")
        nursery.start_soon(agent.aclose, "b")
