"""The target's other replicas, whose incoming connections come to the program too.

Files, environment, names and outgoing connections are those of one pod. But callers of a Service reach any of its pods,
so what the program is to get of them must be had at each, by an agent that can do nothing else. These agents are begun
when the program listens for the first time, since most programs never do; and the first listen(2) waits for them, so
that from its return on no pod answers in the program's place.

A replica that cannot be had, or is lost, keeps its connections, and a sentence says so.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from mirror.cli.errors import MirrorError, TargetError
from mirror.cli.proxy.agent import Agent
from mirror.cli.proxy.introduction import introduce
from mirror.cli.proxy.session import Session
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.messages import Accepted, Message, Notice, Subscribe, Unsubscribe
from mirror.protocol.stream import Peer, RequestFailed

if TYPE_CHECKING:
    from mirror.cli.proxy.incoming import Incoming

_PATIENCE_S = 15.0
"""How long listen(2) waits for agents that are being started; they go on after that."""


class Replicas:
    """The agents of the other replicas.

    Args:
        session: In which they are used.
        incoming: Takes the connections.
        agents: One for each; none of them begun.
    """

    def __init__(self, session: Session, incoming: Incoming, agents: Sequence[Agent]) -> None:
        self._session = session
        self._incoming = incoming
        self._agents = agents
        self._peers: dict[str, Peer] = {}
        """Of those that are there, by the name of what they are beside."""
        self._wanted: dict[int, Subscribe] = {}
        self._one_at_a_time = trio.Lock()
        """So that a replica that comes while a port is taken or given back misses nothing."""
        self._is_begun = False
        self._pending = len(agents)
        self._complete = trio.Event()

    async def subscribe(self, wanted: Subscribe) -> None:
        """Asks each for a port; returns when those that can be had are there."""
        if not self._agents:
            return
        async with self._one_at_a_time:
            self._wanted[wanted.port] = wanted
            for name, peer in list(self._peers.items()):
                await self._ask(name, peer, wanted)
        if not self._is_begun:
            self._is_begun = True
            for agent in self._agents:
                self._session.start(self._serve, agent)
        with trio.move_on_after(_PATIENCE_S):
            await self._complete.wait()

    async def unsubscribe(self, port: int) -> None:
        """Gives a port back to each."""
        async with self._one_at_a_time:
            if self._wanted.pop(port, None) is not None:
                for name, peer in list(self._peers.items()):
                    await self._ask(name, peer, Unsubscribe(port))

    async def _serve(self, agent: Agent) -> None:
        """One replica, from its agent's start to its end."""
        replica = _Replica(self._incoming, self._session)
        try:
            try:
                peer, welcome = await introduce(self._session, agent, replica.hear, _tell_nobody, replica.lose)
                replica.peer = peer
                replica.is_introduced = True
                if "incoming" not in welcome.capabilities:
                    raise TargetError(welcome.reasons.get("incoming", "its agent cannot have them"))
                async with self._one_at_a_time:
                    for wanted in self._wanted.values():
                        await self._ask(agent.name, peer, wanted)
                    self._peers[agent.name] = peer
            finally:
                self._pending -= 1
                if not self._pending:
                    self._complete.set()
            await replica.lost.wait()
            raise TargetError(replica.why)
        except MirrorError as error:
            self._peers.pop(agent.name, None)
            self._session.tell_user(f"what comes to {agent.name} stays there: {error.sentence}")
        finally:
            await agent.end(at_once=not replica.is_introduced)

    async def _ask(self, name: str, peer: Peer, wanted: Subscribe | Unsubscribe) -> None:
        try:
            await peer.request(wanted)
        except RequestFailed as error:
            self._session.tell_user(f"what comes to port {wanted.port} of {name} stays there: {error}")
        except ConnectionLost:
            pass  # `_serve` sees it too


class _Replica:
    """What comes from one agent."""

    peer: Peer

    def __init__(self, incoming: Incoming, session: Session) -> None:
        self._incoming = incoming
        self._session = session
        self.is_introduced = False
        self.lost = trio.Event()
        self.why = ""

    async def hear(self, message: Message) -> Message | None:
        match message:
            case Notice(text):
                self._session.tell_user(text)
            case Accepted():
                await self._incoming.accepted(message, self.peer)
            case _:
                raise RequestFailed(errno.ENOSYS, f"the proxy does not expect {type(message).__name__}")
        return None

    def lose(self, error: Exception) -> None:
        """The connection has ended."""
        self.why = f"its agent is gone ({error})"
        self.lost.set()


async def _tell_nobody(_: str) -> None:
    """The program runs already, and what it shows is its own."""
