"""What becomes of requests, and what the user is told, when the connection to an agent breaks or its target moves."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from mirror.cli.errors import MirrorError, TargetError
from mirror.cli.proxy import introduction, uplink
from mirror.cli.proxy.agent import tell_nobody
from mirror.cli.proxy.uplink import Uplink
from mirror.cli.settings import Settings
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.messages import Done, Message, ReadLink, Welcome
from mirror.protocol.stream import Peer, RequestFailed
from tests.cli.proxy.network import Access, Session

REQUEST = ReadLink(b"/link")
SETTINGS = Settings("deployment/web", reconnect_timeout_s=30)
LOST = "there is no connection to the agent of deployment/web (it broke): requests wait"
ENDED = "container app of pod web-1 has ended"
BACK = "there is a connection to the agent of deployment/web again"


class Actor:
    """An agent that counts what it is asked, and refuses it; or, if it is to break, breaks the connection."""

    peer: Peer

    def __init__(self) -> None:
        self.asked = 0
        self.breaks = 0
        self.is_targets_end = False

    async def handle(self, message: Message) -> Message | None:
        self.asked += 1
        if self.breaks:
            self.breaks -= 1
            await self.peer.aclose("it broke", is_targets_end=self.is_targets_end)
        raise RequestFailed(40, "as expected")


@dataclasses.dataclass
class Stage:
    actor: Actor
    access: Access
    session: Session
    nursery: trio.Nursery
    monkeypatch: pytest.MonkeyPatch
    settled: list[tuple[Peer, Peer | None]] = dataclasses.field(default_factory=list)
    may_settle: trio.Event = dataclasses.field(default_factory=trio.Event)

    async def begin(self) -> Uplink:
        made = Uplink(self.session, self.access, self.hear, self._settle, "requests wait")  # type: ignore[arg-type]
        self.may_settle.set()
        await made.begin(tell_nobody)
        self.nursery.start_soon(made.keep)
        await trio.testing.wait_all_tasks_blocked()
        return made

    async def hear(self, message: Message, _: Peer) -> Message | None:
        raise AssertionError(message)

    async def _settle(self, peer: Peer, welcome: Welcome, former: Peer | None) -> None:
        await self.settle(peer, welcome, former)

    async def settle(self, peer: Peer, _: Welcome, former: Peer | None) -> None:
        self.settled.append((peer, former))
        await self.may_settle.wait()


@pytest.fixture
async def stage(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    actor = Actor()
    yield Stage(actor, Access(actor, nursery, "deployment/web"), Session(SETTINGS, nursery), nursery, monkeypatch)
    nursery.cancel_scope.cancel()


async def ask(made: Uplink) -> None:
    with pytest.raises(RequestFailed, match="as expected"):
        await made.request(REQUEST)


async def errno_of(made: Uplink, answers: list[int]) -> None:
    try:
        await made.request(REQUEST)
    except RequestFailed as error:
        answers.append(error.errno)


async def test_a_request_whose_connection_breaks_is_asked_again(stage: Stage, autojump_clock: MockClock) -> None:
    made = await stage.begin()
    stage.actor.breaks = 1
    await ask(made)
    assert stage.actor.asked == 2
    assert stage.access.begun == 2
    assert stage.access.again == [None]
    assert made.requests_sent == {"ReadLink": 2}
    await trio.testing.wait_all_tasks_blocked()
    assert stage.session.told == [LOST, BACK]
    assert len(stage.settled) == 2


async def test_requests_wait_until_there_is_a_connection(stage: Stage, autojump_clock: MockClock) -> None:
    made = await stage.begin()
    stage.access.may_begin = trio.Event()
    await stage.actor.peer.aclose("it broke")
    answers: list[int] = []
    for _ in range(3):
        stage.nursery.start_soon(errno_of, made, answers)
    await trio.sleep(29)
    assert made.present is None
    assert answers == []
    stage.access.may_begin.set()
    await trio.testing.wait_all_tasks_blocked()
    assert answers == [40] * 3


async def test_requests_that_wait_too_long_fail_and_later_ones_at_once(stage: Stage, autojump_clock: MockClock) -> None:
    made = await stage.begin()
    stage.access.may_begin = trio.Event()
    began_at = trio.current_time()
    await stage.actor.peer.aclose("it broke")
    await trio.sleep(10)
    for _ in range(2):
        with pytest.raises(ConnectionLost, match="it broke"):
            await made.request(REQUEST)
        assert 29 < trio.current_time() - began_at < 31
    stage.access.may_begin.set()
    await trio.testing.wait_all_tasks_blocked()
    await ask(made)


async def test_a_request_that_was_under_way_waits_no_longer(stage: Stage, autojump_clock: MockClock) -> None:
    made = await stage.begin()
    stage.access.may_begin = trio.Event()
    stage.actor.breaks = 1
    began_at = trio.current_time()
    with pytest.raises(ConnectionLost, match="it broke"):
        await made.request(REQUEST)
    assert 29 < trio.current_time() - began_at < 31


async def test_a_request_that_breaks_connections_is_given_up(stage: Stage, autojump_clock: MockClock) -> None:
    made = await stage.begin()
    stage.actor.breaks = 100
    with pytest.raises(ConnectionLost, match="it broke"):
        await made.request(REQUEST)
    assert stage.actor.asked == uplink.MOST_BROKEN
    stage.actor.breaks = 0
    await ask(made)


async def test_connections_that_break_at_once_are_made_with_growing_pauses(
    stage: Stage, autojump_clock: MockClock
) -> None:
    """As those to an agent that says goodbye to all who come."""
    await stage.begin()
    stage.settle = break_at_once(stage)  # type: ignore[assignment, method-assign]
    await stage.actor.peer.aclose("it broke")
    await trio.sleep(100)
    assert stage.access.begun < 60
    assert isinstance(stage.access.again[-1], TargetError), "the agent is not looked for anew"
    assert len(stage.session.told) <= 2 * uplink.MOST_BROKEN


def break_at_once(stage: Stage) -> Callable[[Peer, Welcome, Peer | None], Awaitable[None]]:
    async def settle(*_: object) -> None:
        await stage.actor.peer.aclose("it broke")

    return settle


async def test_attempts_go_on_with_growing_pauses_and_the_user_is_told_why_once(
    stage: Stage, autojump_clock: MockClock
) -> None:
    await stage.begin()
    refusals: list[MirrorError] = [TargetError("no pod is ready")] * 50
    stage.access.refusals = [*refusals]
    began_at = trio.current_time()
    await stage.actor.peer.aclose("it broke")
    while stage.access.refusals:
        await trio.sleep(1)
    await trio.sleep(uplink.LONGEST_PAUSE_S)
    assert stage.access.again == [None, *refusals]
    assert stage.session.told == [LOST, "there is still no connection: no pod is ready", BACK]
    assert trio.current_time() - began_at == pytest.approx(50 * uplink.LONGEST_PAUSE_S, abs=10)


async def test_what_passes_soon_is_not_told(stage: Stage, autojump_clock: MockClock) -> None:
    await stage.begin()
    stage.access.refusals = [TargetError("the agent was killed")] * 3
    await stage.actor.peer.aclose("it broke")
    await trio.sleep(uplink.QUIET_S)
    assert stage.session.told == [LOST, BACK]


async def test_each_outage_is_told(stage: Stage, autojump_clock: MockClock) -> None:
    await stage.begin()
    for _ in range(2):
        await stage.actor.peer.aclose("it broke")
        await trio.sleep(1)
    assert stage.session.told == [LOST, BACK] * 2


async def test_an_agent_that_does_not_introduce_itself_is_left(stage: Stage, autojump_clock: MockClock) -> None:
    """A stopped one, say."""
    made = await stage.begin()
    pair = stage.access.pair
    ours, theirs = pair()
    pairs = [(ours, trio.testing.memory_stream_pair()[0])]
    stage.access.pair = lambda: pairs.pop() if pairs else pair()
    await stage.actor.peer.aclose("it broke")
    await trio.sleep(29)
    with trio.fail_after(0.5):
        await ask(made)
    await theirs.aclose()


async def test_an_agent_elsewhere_is_told(stage: Stage, autojump_clock: MockClock) -> None:
    await stage.begin()
    stage.access.may_begin = trio.Event()
    await stage.actor.peer.aclose("it broke")
    await trio.testing.wait_all_tasks_blocked()
    stage.access.whereabouts = "pod web-2"
    stage.access.may_begin.set()
    await trio.sleep(1)
    assert stage.session.told == [LOST, f"{BACK}, in pod web-2 instead of deployment/web"]


async def test_requests_go_to_the_old_agent_until_there_is_another(stage: Stage, autojump_clock: MockClock) -> None:
    made = await stage.begin()
    old, new = stage.actor, Actor()
    stage.access.may_begin = trio.Event()
    stage.may_settle = trio.Event()
    stage.access.go("pod web-1 is being removed", new, "pod web-2")
    await trio.sleep(1)
    await ask(made)
    assert (old.asked, new.asked) == (1, 0)
    assert stage.session.told == []
    first = made.present
    stage.access.may_begin.set()
    await trio.testing.wait_all_tasks_blocked()
    await ask(made)
    assert (old.asked, new.asked) == (1, 1)
    assert stage.settled[1:] == [(made.present, first)]
    assert not old.peer.is_over
    stage.may_settle.set()
    await trio.testing.wait_all_tasks_blocked()
    assert old.peer.is_over
    assert stage.session.told == ["pod web-1 is being removed: the session goes on in pod web-2"]


async def test_an_old_agent_that_is_lost_before_there_is_another(stage: Stage, autojump_clock: MockClock) -> None:
    made = await stage.begin()
    old, new = stage.actor, Actor()
    stage.access.refusals = [TargetError("no pod is ready")] * 9
    stage.access.go("pod web-1 is being removed", new, "pod web-2")
    await trio.sleep(uplink.QUIET_S)
    await old.peer.aclose("it broke")
    with trio.fail_after(29):
        await ask(made)
    assert new.asked == 1
    await trio.testing.wait_all_tasks_blocked()
    assert stage.session.told == [
        "pod web-1 is being removed, and the session cannot go on elsewhere yet: no pod is ready",
        "pod web-1 is being removed: the session goes on in pod web-2",
    ]


async def test_requests_wait_between_the_targets_end_and_its_next(stage: Stage, autojump_clock: MockClock) -> None:
    made = await stage.begin()
    new = Actor()
    stage.access.refusals = [TargetError("the cluster has no other yet")] * 3
    stage.access.move(new, "pod web-1")
    await stage.actor.peer.aclose(ENDED, is_targets_end=True)
    await ask(made)
    assert new.asked == 1
    await trio.testing.wait_all_tasks_blocked()
    assert stage.session.told == [f"{ENDED}: the session goes on in pod web-1"]
    assert trio.current_time() < uplink.QUIET_S


async def test_a_target_that_has_ended_for_good_is_told_once(stage: Stage, autojump_clock: MockClock) -> None:
    made = await stage.begin()
    refusals = stage.access.refusals = [TargetError("it is scaled to 0")] * 50
    await stage.actor.peer.aclose(ENDED, is_targets_end=True)
    began_at = trio.current_time()
    for _ in range(2):
        with pytest.raises(ConnectionLost, match=ENDED):
            await made.request(REQUEST)
        assert 29 < trio.current_time() - began_at < 31
    assert stage.session.told == [f"{ENDED}, and the session cannot go on elsewhere yet: it is scaled to 0"]
    stage.access.move(Actor(), "pod web-2")
    refusals.clear()
    await trio.sleep(uplink.LONGEST_PAUSE_S)
    await ask(made)
    assert stage.session.told[1:] == [f"{ENDED}: the session goes on in pod web-2"]


async def test_a_target_that_ends_while_it_is_being_left(stage: Stage, autojump_clock: MockClock) -> None:
    made = await stage.begin()
    old, new = stage.actor, Actor()
    stage.access.refusals = [TargetError("no pod is ready")] * 3
    stage.access.go("pod web-1 is being removed", new, "pod web-2")
    await trio.testing.wait_all_tasks_blocked()
    await old.peer.aclose(ENDED, is_targets_end=True)
    await ask(made)
    assert (old.asked, new.asked) == (0, 1)
    await trio.testing.wait_all_tasks_blocked()
    assert stage.session.told == ["pod web-1 is being removed: the session goes on in pod web-2"]


async def test_a_target_that_is_left_for_itself(stage: Stage, autojump_clock: MockClock) -> None:
    """It is being removed, no other is there, and it is the connection that broke meanwhile."""
    made = await stage.begin()
    stage.access.refusals = [TargetError("no pod is ready")] * 3
    stage.access.announce("pod web-1 is being removed")
    await trio.testing.wait_all_tasks_blocked()
    await stage.actor.peer.aclose("it broke")
    await ask(made)
    await trio.testing.wait_all_tasks_blocked()
    assert stage.session.told == [BACK]


async def test_the_next_container_is_told(stage: Stage, autojump_clock: MockClock) -> None:
    """One whose agent died with it, without a word."""
    await stage.begin()
    stage.access.move(Actor(), "deployment/web")
    await stage.actor.peer.aclose("it broke")
    await trio.sleep(1)
    assert stage.session.told == [LOST, f"{BACK}, in the next container of deployment/web"]


async def test_a_target_that_ends_again_and_again_is_not_a_requests_fault(
    stage: Stage, autojump_clock: MockClock
) -> None:
    made = await stage.begin()
    stage.actor.breaks = 2 * uplink.MOST_BROKEN
    stage.actor.is_targets_end = True
    await ask(made)


async def test_a_target_that_has_ended_before_its_agent_was_used(stage: Stage, autojump_clock: MockClock) -> None:
    made = await stage.begin()
    peers: list[Peer] = []

    async def introduce(*arguments: Any, **options: Any) -> tuple[Peer, Welcome]:
        met = await introduction.introduce(*arguments, **options)
        peers.append(met[0])
        if len(peers) == 1:
            await stage.actor.peer.aclose(ENDED, is_targets_end=True)
            with pytest.raises(ConnectionLost):
                await met[0].request(REQUEST)
        return met

    stage.monkeypatch.setattr(uplink, "introduce", introduce)
    await stage.actor.peer.aclose("it broke")
    await ask(made)
    await trio.testing.wait_all_tasks_blocked()
    assert stage.access.losses == ["it broke", ENDED]


async def test_a_connection_that_breaks_while_it_is_settled(stage: Stage, autojump_clock: MockClock) -> None:
    made = await stage.begin()
    stage.may_settle = trio.Event()
    await stage.actor.peer.aclose("it broke")
    await trio.sleep(1)
    await stage.actor.peer.aclose("it broke")
    await trio.sleep(1)
    assert len(stage.settled) == 3
    assert stage.session.told == [LOST, BACK] * 2
    await ask(made)


async def test_one_that_does_not_come_back_is_not_waited_for(stage: Stage, autojump_clock: MockClock) -> None:
    stage.access.comes_back = False
    made = await stage.begin()
    stage.actor.breaks = 1
    with trio.fail_after(1):
        for _ in range(2):
            with pytest.raises(ConnectionLost, match="it broke"):
                await made.request(REQUEST)
    await trio.testing.wait_all_tasks_blocked()
    assert stage.access.begun == 1
    assert stage.session.told == []
    assert [str(error) for error in stage.session.lost] == ["it broke"]


async def test_more_than_a_request_is_done_again(stage: Stage, autojump_clock: MockClock) -> None:
    made = await stage.begin()
    tried: list[Peer] = []

    async def read(peer: Peer) -> Message:
        tried.append(peer)
        if len(tried) < 3:
            await stage.actor.peer.aclose("it broke")
            await peer.request(REQUEST)
        return Done()

    assert await made.call(read) == Done()
    assert len(set(tried)) == 3
