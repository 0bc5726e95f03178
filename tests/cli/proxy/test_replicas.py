"""The agents of a target's other pods: begun by the first listener, asked for what the first agent is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from mirror.cli.cluster.probes import Probes
from mirror.cli.errors import MirrorError, TargetError
from mirror.cli.handover import Order
from mirror.cli.proxy.agent import Tell
from mirror.cli.proxy.replicas import Replicas
from mirror.cli.settings import Settings
from mirror.protocol.messages import Accepted, SocketAddress, Subscribe, Unsubscribe
from mirror.protocol.stream import ConnectionLost, Peer
from tests.cli.proxy import network

SETTINGS = Settings("deployment/web")
CALLER = SocketAddress(b"\x0a\0\0\1", 4711)
WEB, ADMIN = Subscribe(8080, True), Subscribe(9090, True)


class Replica:
    """An `agent.Agent` whose far end is `actor`."""

    probes = Probes()
    replicas = ()

    def __init__(
        self, name: str, nursery: trio.Nursery, *, refusal: str = "", can: tuple[str, ...] = ("incoming",)
    ) -> None:
        self.name = name
        self.actor = network.Agent(peer=None, nursery=nursery)  # type: ignore[arg-type]
        self.ended: bool | None = None
        self.may_begin = trio.Event()
        self.may_begin.set()
        self.begun = 0
        self._refusal = refusal
        self._can = can
        self._nursery = nursery

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        yield

    async def connect(self, tell: Tell) -> trio.abc.Stream:
        self.begun += 1
        await self.may_begin.wait()
        if self._refusal:
            raise TargetError(self._refusal)
        ours, theirs = trio.socket.socketpair()
        stream = trio.SocketStream(theirs)
        self.actor.peer = Peer(stream, is_client=False, handler=self.actor.handle, capabilities=self._can)
        self._nursery.start_soon(self._run)
        return trio.SocketStream(ours)

    async def _run(self) -> None:
        with contextlib.suppress(ConnectionLost):
            await self.actor.peer.run()

    async def explain(self, error: Exception) -> MirrorError | None:
        return TargetError(str(error))

    async def end(self, *, at_once: bool) -> None:
        self.ended = at_once


class Session(network.Session):
    """With the sentences that the user is told."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(None, SETTINGS, nursery)  # type: ignore[arg-type]
        self.order = Order(SETTINGS, 1, (), (), "/", {"USER": "anna"}, None)
        self.told: list[str] = []

    def tell_user(self, sentence: str) -> None:
        self.told.append(sentence)


class Incoming:
    """Takes connections."""

    def __init__(self) -> None:
        self.taken: list[tuple[Accepted, Peer]] = []
        self.some = trio.Event()

    async def accepted(self, message: Accepted, peer: Peer) -> None:
        peer.accept_channel(message.channel)
        self.taken.append((message, peer))
        self.some.set()


def replicas_of(session: Session, *agents: Replica, incoming: Any = None) -> Replicas:
    return Replicas(session, incoming or Incoming(), agents)  # type: ignore[arg-type]


async def test_none_is_begun_before_something_listens(nursery: trio.Nursery) -> None:
    agent = Replica("pod b", nursery)
    replicas = replicas_of(Session(nursery), agent)
    await replicas.unsubscribe(1)
    await trio.testing.wait_all_tasks_blocked()
    assert agent.begun == 0
    await replicas.subscribe(WEB)
    assert agent.begun == 1
    assert agent.actor.heard == [WEB]


async def test_each_hears_what_the_first_hears(nursery: trio.Nursery) -> None:
    agents = [Replica("pod b", nursery), Replica("pod c", nursery)]
    replicas = replicas_of(Session(nursery), *agents)
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
    replicas = replicas_of(Session(nursery), agent)
    await replicas.subscribe(WEB)  # does not wait for ever
    await replicas.subscribe(ADMIN)
    await replicas.unsubscribe(WEB.port)
    agent.may_begin.set()
    await agent.actor.until(lambda: bool(agent.actor.heard))
    await trio.testing.wait_all_tasks_blocked()
    assert agent.actor.heard == [ADMIN]


async def test_connections_come_from_each(nursery: trio.Nursery) -> None:
    agent, incoming = Replica("pod b", nursery), Incoming()
    await replicas_of(Session(nursery), agent, incoming=incoming).subscribe(WEB)
    await agent.actor.deliver(SocketAddress(b"\x0a\0\0\2", 8080), CALLER)
    await incoming.some.wait()
    ((message, _),) = incoming.taken
    assert message.peer == CALLER


@pytest.mark.parametrize(
    ("wrong", "why"), [({"refusal": "no room"}, "no room"), ({"can": ()}, "its agent cannot have them")]
)
async def test_one_that_cannot_be_had_is_told_and_stops_nobody(
    nursery: trio.Nursery, wrong: dict[str, Any], why: str
) -> None:
    session = Session(nursery)
    bad, good = Replica("pod b", nursery, **wrong), Replica("pod c", nursery)
    await replicas_of(session, bad, good).subscribe(WEB)
    await trio.testing.wait_all_tasks_blocked()
    assert session.told == [f"what comes to pod b stays there: {why}"]
    assert good.actor.heard == [WEB]
    assert bad.ended is ("refusal" in wrong)


async def test_a_port_that_somebody_else_has_there_is_told(nursery: trio.Nursery) -> None:
    session, agent = Session(nursery), Replica("pod b", nursery)
    agent.actor.refused_port = WEB.port
    await replicas_of(session, agent).subscribe(WEB)
    assert session.told == [f"what comes to port {WEB.port} of pod b stays there: somebody else has it"]


async def test_one_that_is_lost_is_told(nursery: trio.Nursery) -> None:
    session, agent = Session(nursery), Replica("pod b", nursery)
    replicas = replicas_of(session, agent)
    await replicas.subscribe(WEB)
    await agent.actor.peer.aclose("it was removed")
    await trio.testing.wait_all_tasks_blocked()
    assert session.told == ["what comes to pod b stays there: its agent is gone (it was removed)"]
    assert agent.ended is False
    await replicas.subscribe(ADMIN)
    assert agent.actor.heard == [WEB]
