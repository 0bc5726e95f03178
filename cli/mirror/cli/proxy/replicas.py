"""The target's other replicas, whose incoming connections come to the program too.

Files, environment, names and outgoing connections are those of one pod. But callers of a Service reach any of its pods,
so what the program is to get of them must be had at each, by an agent that can do nothing else. These agents are begun
when the program listens for the first time, since most programs never do; and the first listen(2) waits for them, so
that from its return on no pod answers in the program's place.

Replicas that become ready later come to it, and those that go leave. One whose agent is lost keeps its connections
until there is another agent; one that cannot be had keeps them for good. A sentence says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import trio

from mirror.cli.errors import MirrorError, TargetError
from mirror.cli.proxy.agent import Agent, tell_nobody
from mirror.cli.proxy.introduction import Hear
from mirror.cli.proxy.session import Session
from mirror.cli.proxy.uplink import LONGEST_PAUSE_S, Uplink
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.messages import Subscribe, Unsubscribe, Welcome
from mirror.protocol.stream import Peer, RequestFailed

_PATIENCE_S = 15.0
"""How long listen(2) waits for agents that are being started; they go on after that."""
_LEAVES_WITHIN_S = 1.0
"""A replica that is given up; mostly it is gone."""


class Replicas:
    """The agents of the other replicas.

    Args:
        session: In which they are used.
        hear: Takes the connections.
        agent: That of the first replica, which knows the others.
    """

    def __init__(self, session: Session, hear: Hear, agent: Agent) -> None:
        self._session = session
        self._hear = hear
        self._agent = agent
        self._served: dict[Agent, _Replica] = {}
        self._wanted: dict[int, Subscribe] = {}
        self._one_at_a_time = trio.Lock()
        """So that a replica that comes while a port is taken or given back misses nothing."""
        self._adjusting = trio.Lock()
        self._is_begun = False

    async def subscribe(self, wanted: Subscribe) -> None:
        """Asks each for a port; returns when those that can be had are there."""
        async with self._one_at_a_time:
            self._wanted[wanted.port] = wanted
            for replica in list(self._served.values()):
                await replica.ask(wanted)
        if not self._is_begun:
            self._is_begun = True
            await self.adjust()
            self._session.start(self._follow)
        with trio.move_on_after(_PATIENCE_S):
            for replica in list(self._served.values()):
                await replica.has_come.wait()

    async def unsubscribe(self, port: int) -> None:
        """Gives a port back to each."""
        async with self._one_at_a_time:
            if self._wanted.pop(port, None) is not None:
                for replica in list(self._served.values()):
                    await replica.ask(Unsubscribe(port))

    async def adjust(self) -> None:
        """Lets go those that are no replicas any more, and then begins those that are new."""
        if not self._is_begun:
            return
        async with self._adjusting:
            present = tuple(self._agent.replicas)
            for agent in [agent for agent in self._served if agent not in present]:
                await self._served.pop(agent).leave()
            for agent in present:
                if agent not in self._served:
                    replica = self._served[agent] = _Replica(
                        self._session, self._hear, agent, self._wanted, self._one_at_a_time
                    )
                    self._session.start(replica.serve)

    async def ask_again(self) -> None:
        """Asks for the ports that were refused: whoever had one may have given it back."""
        if any(replica.refused for replica in self._served.values()):
            async with self._one_at_a_time:
                for replica in list(self._served.values()):
                    await replica.ask_again()

    async def _follow(self) -> None:
        while True:
            await self._agent.until_others(tuple(self._served))
            await self.adjust()


class _Replica:
    """One of them, from its agent's start until it is no replica any more.

    Attributes:
        has_come: Set when it is there for the first time, and when it cannot be had.
        refused: Ports that it could not give when they were asked for.
    """

    def __init__(
        self, session: Session, hear: Hear, agent: Agent, wanted: Mapping[int, Subscribe], one_at_a_time: trio.Lock
    ) -> None:
        self.has_come = trio.Event()
        self.refused: set[int] = set()
        self._session = session
        self._agent = agent
        self._wanted = wanted
        self._one_at_a_time = one_at_a_time
        self._scope = trio.CancelScope()
        self._uplink = Uplink(session, agent, hear, self._settle, "what comes to it stays there meanwhile")

    async def serve(self) -> None:
        """Until `leave`, or until it turns out that it cannot be had. Never raises but Cancelled."""
        is_had = False
        try:
            with self._scope:
                await self._begin()
                is_had = True
                self.has_come.set()
                await self._uplink.keep()
        except MirrorError as error:
            self._session.tell_user(f"what comes to {self._agent.name} stays there: {error.sentence}")
        finally:
            self.has_come.set()
            with trio.CancelScope(shield=True):
                await self._uplink.aclose()
            await self._agent.end(at_once=not is_had)

    async def _begin(self) -> None:
        while True:
            try:
                await self._uplink.begin(tell_nobody)
            except MirrorError as error:
                if not error.is_passing:
                    raise
                self.has_come.set()
                await trio.sleep(LONGEST_PAUSE_S)
            else:
                return

    async def leave(self) -> None:
        """Ends `serve`; the agent has given all ports back then, if it still lives."""
        with trio.move_on_after(_LEAVES_WITHIN_S):
            for port in list(self._wanted):
                await self.ask(Unsubscribe(port))
        self._scope.cancel()

    async def ask(self, wanted: Subscribe | Unsubscribe) -> None:
        """Asks for a port, or gives one back, if it is there; else it will hear what is wanted when it comes."""
        if (peer := self._uplink.present) is not None:
            await self._ask(peer, wanted)

    async def ask_again(self) -> None:
        """Asks for what was refused."""
        for port in self.refused & self._wanted.keys():
            await self.ask(self._wanted[port])

    async def _settle(self, peer: Peer, welcome: Welcome, former: Peer | None) -> None:
        if "incoming" not in welcome.capabilities:
            reason = welcome.reasons.get("incoming", "its agent cannot have them")
            if not self.has_come.is_set():
                raise TargetError(reason)
            self._session.tell_user(f"what comes to {self._agent.name} stays there: {reason}")
            return
        async with self._one_at_a_time:
            for wanted in list(self._wanted.values()):
                await self._ask(peer, wanted)

    async def _ask(self, peer: Peer, wanted: Subscribe | Unsubscribe) -> None:
        with contextlib.suppress(ConnectionLost):  # the uplink sees it too
            self.refused.discard(wanted.port)
            try:
                await peer.request(wanted)
            except RequestFailed as error:
                self.refused.add(wanted.port)
                self._session.tell_user(f"what comes to port {wanted.port} of {self._agent.name} stays there: {error}")
