"""The agents of a target's other pods: begun by the first listener, asked for what the first agent is asked for."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mirror.cli.errors import TargetError
from mirror.cli.proxy.replicas import Replicas
from mirror.cli.settings import Settings
from mirror.protocol.messages import Accepted, Message, SocketAddress, Subscribe, Unsubscribe
from mirror.protocol.stream import Peer
from tests.cli.proxy import network

SETTINGS = Settings("deployment/web")
CALLER = SocketAddress(b"\x0a\0\0\1", 4711)
WEB, ADMIN = Subscribe(8080, True), Subscribe(9090, True)


class Replica(network.Access):
    """One whose agent can do nothing but take traffic."""

    actor: network.Agent

    def __init__(self, name: str, nursery: trio.Nursery, can: tuple[str, ...] = ("incoming",)) -> None:
        super().__init__(network.Agent(peer=None, nursery=nursery), nursery, name, can)  # type: ignore[arg-type]


def session_of(nursery: trio.Nursery) -> network.Session:
    return network.Session(SETTINGS, nursery)


class Incoming:
    """Takes connections."""

    def __init__(self) -> None:
        self.taken: list[tuple[Accepted, Peer]] = []
        self.some = trio.Event()

    async def hear(self, message: Message, peer: Peer) -> None:
        assert isinstance(message, Accepted)
        peer.accept_channel(message.channel)
        self.taken.append((message, peer))
        self.some.set()


def replicas_of(session: network.Session, *agents: Replica, incoming: Incoming | None = None) -> Replicas:
    first = Replica("pod a", session.nursery)
    first.put_replicas(*agents)
    return Replicas(session, (incoming or Incoming()).hear, first)  # type: ignore[arg-type]


async def test_none_is_begun_before_something_listens(nursery: trio.Nursery) -> None:
    agent = Replica("pod b", nursery)
    replicas = replicas_of(session_of(nursery), agent)
    await replicas.unsubscribe(1)
    await trio.testing.wait_all_tasks_blocked()
    assert agent.begun == 0
    await replicas.subscribe(WEB)
    assert agent.begun == 1
    assert agent.actor.heard == [WEB]


async def test_each_hears_what_the_first_hears(nursery: trio.Nursery) -> None:
    agents = [Replica("pod b", nursery), Replica("pod c", nursery)]
    replicas = replicas_of(session_of(nursery), *agents)
    await replicas.subscribe(WEB)
    await replicas.subscribe(ADMIN)
    await replicas.unsubscribe(WEB.port)
    for agent in agents:
        assert agent.actor.heard == [WEB, ADMIN, Unsubscribe(WEB.port)]
        assert agent.begun == 1


async def test_one_that_comes_late_hears_what_is_wanted_by_then(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    agent = Replica("pod b", nursery)
    agent.may_begin = trio.Event()
    replicas = replicas_of(session_of(nursery), agent)
    await replicas.subscribe(WEB)  # does not wait for ever
    await replicas.subscribe(ADMIN)
    await replicas.unsubscribe(WEB.port)
    agent.may_begin.set()
    await agent.actor.until(lambda: bool(agent.actor.heard))
    await trio.testing.wait_all_tasks_blocked()
    assert agent.actor.heard == [ADMIN]


async def test_connections_come_from_each(nursery: trio.Nursery) -> None:
    agent, incoming = Replica("pod b", nursery), Incoming()
    await replicas_of(session_of(nursery), agent, incoming=incoming).subscribe(WEB)
    await agent.actor.deliver(SocketAddress(b"\x0a\0\0\2", 8080), CALLER)
    await incoming.some.wait()
    ((message, _),) = incoming.taken
    assert message.peer == CALLER


@pytest.mark.parametrize("is_refused", [True, False])
async def test_one_that_cannot_be_had_is_told_and_stops_nobody(nursery: trio.Nursery, is_refused: bool) -> None:
    session = session_of(nursery)
    bad, good = Replica("pod b", nursery, can=()), Replica("pod c", nursery)
    why = "no room" if is_refused else "its agent cannot have them"
    bad.refusals = [TargetError("no room")] * is_refused
    await replicas_of(session, bad, good).subscribe(WEB)
    await trio.testing.wait_all_tasks_blocked()
    assert session.told == [f"what comes to pod b stays there: {why}"]
    assert good.actor.heard == [WEB]
    assert bad.ended is True
    assert good.ended is None


async def test_a_port_that_somebody_else_has_there_is_told(nursery: trio.Nursery) -> None:
    session, agent = session_of(nursery), Replica("pod b", nursery)
    agent.actor.refused_port = WEB.port
    await replicas_of(session, agent).subscribe(WEB)
    assert session.told == [f"what comes to port {WEB.port} of pod b stays there: somebody else has it"]


async def test_a_port_that_was_refused_is_asked_for_again(nursery: trio.Nursery) -> None:
    session, agent = session_of(nursery), Replica("pod b", nursery)
    agent.actor.refused_port = WEB.port
    replicas = replicas_of(session, agent)
    await replicas.subscribe(WEB)
    await replicas.ask_again()
    assert len(session.told) == 1
    agent.actor.refused_port = 0
    await replicas.ask_again()
    heard = [*agent.actor.heard]
    await replicas.ask_again()
    assert agent.actor.heard == heard, "what it has is asked for again"
    assert heard[-1] == WEB


async def test_one_that_cannot_be_had_for_a_moment_joins_later(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    session, agent = session_of(nursery), Replica("pod b", nursery)
    refusal = TargetError("the API server does not answer")
    refusal.is_passing = True
    agent.refusals = [refusal]
    await replicas_of(session, agent).subscribe(WEB)
    await agent.actor.until(lambda: agent.actor.heard == [WEB])
    assert agent.ended is None


async def test_one_that_is_lost_is_told_and_had_again(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    session, agent = session_of(nursery), Replica("pod b", nursery)
    replicas = replicas_of(session, agent)
    await replicas.subscribe(WEB)
    agent.may_begin = trio.Event()
    await agent.actor.peer.aclose("it was removed")
    await trio.testing.wait_all_tasks_blocked()
    lost = "there is no connection to the agent of pod b (it was removed): what comes to it stays there meanwhile"
    assert session.told == [lost]
    await replicas.subscribe(ADMIN)
    assert agent.actor.heard == [WEB]
    agent.may_begin.set()
    await agent.actor.until(lambda: agent.actor.heard == [WEB, WEB, ADMIN])
    assert session.told == [lost, "there is a connection to the agent of pod b again"]


async def test_those_that_come_join_and_those_that_go_leave(nursery: trio.Nursery) -> None:
    session = session_of(nursery)
    first, old, new = (Replica(f"pod {letter}", nursery) for letter in "abc")
    first.put_replicas(old)
    replicas = Replicas(session, Incoming().hear, first)  # type: ignore[arg-type]
    first.put_replicas(old)
    await replicas.subscribe(WEB)
    first.put_replicas(new)
    await new.actor.until(lambda: new.actor.heard == [WEB])
    assert old.actor.heard == [WEB, Unsubscribe(WEB.port)]
    await trio.testing.wait_all_tasks_blocked()
    assert old.actor.peer.is_over
    assert old.ended is False
    await replicas.subscribe(ADMIN)
    assert new.actor.heard == [WEB, ADMIN]
    assert session.told == []


async def test_one_that_goes_while_its_agent_begins_leaves(nursery: trio.Nursery) -> None:
    session = session_of(nursery)
    first, old = Replica("pod a", nursery), Replica("pod b", nursery)
    replicas = Replicas(session, Incoming().hear, first)  # type: ignore[arg-type]
    await replicas.subscribe(WEB)
    old.may_begin = trio.Event()
    first.put_replicas(old)
    await trio.testing.wait_all_tasks_blocked()
    assert old.begun == 1
    first.put_replicas()
    await trio.testing.wait_all_tasks_blocked()
    assert old.ended is True
    old.may_begin.set()
    await trio.testing.wait_all_tasks_blocked()
    assert old.actor.heard == []
