"""The connection to an agent, made again whenever it breaks, and the requests that wait meanwhile.

    begin ──▶ connected ── lost, or target ended ──▶ requests wait, and fail when that takes too long ──┐
                 ▲   │                                 ▲                                                │
                 │   │                                 └── lost, or target ended ──┐                    │
                 │   └─── target leaves ──▶ requests go on to the old agent ───────┴────────────────────┤
                 │                                                                                      ▼
                 └── settled ◀── introduced ◀── connect: as often as it takes, with growing pauses

What a request would have done is known only to its answer, so one whose connection broke is asked again on the next:
all that an agent is asked names everything it is about, and what an agent had begun for a connection ends with that.
Channels of a connection that is lost are reset. An agent that does not come back is not waited for. A request that
seems to be what breaks connections is given up, and connections that break soon are made again with growing pauses.
An agent ends with its target: nothing is answered between a target's end and the moment when there is its next.

Not here: how an agent is reached (`agent`), one attempt (`introduction`), what has to be said on a new connection
(`start`, `incoming`, `replicas`).
"""

from __future__ import annotations

import contextlib
import functools
import math
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

import trio

from mirror.cli.errors import MirrorError, TargetError
from mirror.cli.proxy.agent import Agent, Tell, tell_nobody
from mirror.cli.proxy.introduction import WITHIN_S, Hear, introduce
from mirror.cli.proxy.session import Session
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.messages import Message, Welcome
from mirror.protocol.stream import Peer, TargetEnded

SHORTEST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
"""Between attempts to connect; each pause is twice the one before."""
MOST_BROKEN = 3
"""How many connections may break while one request is asked, and how many in a row at once."""
STABLE_S = 5.0
"""What has lasted for so long did not break at once."""
QUIET_S = 3.0
"""How long the user is not told why attempts fail: what a restart or a killed agent leaves behind passes."""
_ANSWERS_WITHIN_S = 5.0
"""How long an agent has to introduce itself where there was one before: it may have been stopped."""

Settle = Callable[[Peer, Welcome, Peer | None], Awaitable[None]]
"""Says what has to be said on a new connection. The third is the one before, if that still works."""

_T = TypeVar("_T")
_M = TypeVar("_M", bound=Message)


class Uplink:
    """A connection to an agent that lasts.

    Args:
        session: In which it is used.
        agent: The agent.
        hear: For what it says of its own accord.
        settle: Called with each new connection.
        meanwhile: What the user is to know of the time without a connection; to follow a colon.

    Attributes:
        requests_sent: As `Peer.requests_sent`, over all connections.
    """

    def __init__(self, session: Session, agent: Agent, hear: Hear, settle: Settle, meanwhile: str) -> None:
        self.requests_sent: Counter[str] = Counter()
        self._session = session
        self._agent = agent
        self._hear = hear
        self._settle = settle
        self._meanwhile = meanwhile
        self._name = secrets.token_hex(16)
        self._peer: Peer | None = None
        self._error: Exception = ConnectionLost("there is no connection yet")
        self._gone = ""
        """Why the target is gone, if it ended and with it the present connection."""
        self._lost = trio.Event()
        """Set when the present connection has ended."""
        self._changed = trio.Event()
        """Set, and then another one, with each new connection."""
        self._patience_ends_at = math.inf
        self._since = -math.inf
        """When the present connection was made."""
        self._brief = 0
        """How many before it broke at once, in a row."""
        self._pause_s = SHORTEST_PAUSE_S

    # --- for users ----------------------------------------------------------------------------------------

    @property
    def present(self) -> Peer | None:
        """The connection, if there is one."""
        return None if self._peer is None or self._peer.is_over else self._peer

    @overload
    async def request(self, message: Message) -> Message: ...
    @overload
    async def request(self, message: Message, answer: type[_M]) -> _M: ...
    async def request(self, message: Message, answer: type[Message] = Message) -> Message:
        """As `Peer.request`; waits for a connection, and asks again on the next one where one breaks.

        Raises:
            RequestFailed: The agent could not do it.
            ConnectionLost: There has been no connection for too long.
        """
        return await self.call(lambda peer: peer.request(message, answer))

    async def call(self, ask: Callable[[Peer], Awaitable[_T]]) -> _T:
        """The same for what takes more than a request: `ask` is given the connection, and called again with the next.

        Raises:
            ConnectionLost: There has been no connection for too long.
        """
        broken = 0
        while True:
            peer = await self._wait()
            try:
                return await ask(peer)
            except ConnectionLost as error:
                broken += not isinstance(error, TargetEnded)  # no request is what ends the target
                if peer is self.present or broken == MOST_BROKEN:
                    raise

    async def _wait(self) -> Peer:
        while (peer := self.present) is None:
            await self._lost.wait()  # those who ask hear of the end first; from the loss on there is a limit
            if self.present is not None:
                continue
            with trio.move_on_at(self._patience_ends_at) as patience:
                await self._changed.wait()
            if patience.cancelled_caught or not self._agent.comes_back:
                raise ConnectionLost(str(self._error))
        return peer

    # --- its life -----------------------------------------------------------------------------------------

    async def begin(self, tell: Tell) -> None:
        """Connects for the first time. Raises MirrorError, also what `settle` raises."""
        peer, welcome = await self._introduce(tell)
        self._use(peer)
        await self._settle(peer, welcome, None)

    async def keep(self) -> None:
        """Connects again whenever that is needed, until cancelled. Returns when an agent is lost for good."""
        gone = await self._until_over(self._until_gone)
        while self._agent.comes_back:
            where, target, former = self._agent.whereabouts, self._agent.target_id, self.present
            self._brief = 0 if gone or trio.current_time() - self._since >= STABLE_S else self._brief + 1
            is_news = self._brief < MOST_BROKEN
            if not gone:
                broken = f"there is no connection to the agent of {self._agent.name} ({self._error})"
                self._tell(f"{broken}: {self._meanwhile}", again=is_news)
            peer, welcome = await self._connect_again(gone)
            self._use(peer)
            if gone and self._agent.target_id != target:
                self._tell(f"{gone}: the session goes on in {self._agent.whereabouts}")
            else:
                instead = ""
                if self._agent.whereabouts != where:
                    instead = f", in {self._agent.whereabouts} instead of {where}"
                elif self._agent.target_id != target:
                    instead = f", in the next container of {where}"
                back = f"there is a connection to the agent of {self._agent.name} again{instead}"
                self._tell(back, again=is_news)
            gone = await self._until_over(functools.partial(self._settle_in, peer, welcome, former))
        self._session.agent_lost(self._error)

    async def aclose(self) -> None:
        """Says goodbye."""
        if self._peer is not None:
            await self._peer.aclose()

    async def _connect_again(self, gone: str) -> tuple[Peer, Welcome]:
        still = f"{gone}, and the session cannot go on elsewhere yet" if gone else "there is still no connection"
        began_at, told = trio.current_time(), set[str]()
        if self._brief < MOST_BROKEN:
            self._pause_s = SHORTEST_PAUSE_S
            self._agent.begin_again(None)
        else:
            self._agent.begin_again(TargetError(str(self._error)))
            await self._pause()
        while True:
            try:
                return await self._introduce(tell_nobody, within_s=_ANSWERS_WITHIN_S)
            except MirrorError as error:
                self._agent.begin_again(error)
                if trio.current_time() - began_at > QUIET_S and error.sentence not in told:
                    told.add(error.sentence)
                    self._tell(f"{still}: {error.sentence}")
            await self._pause()

    async def _pause(self) -> None:
        await self._agent.pause(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    async def _introduce(self, tell: Tell, within_s: float = WITHIN_S) -> tuple[Peer, Welcome]:
        return await introduce(
            self._session, self._agent, self._hear, tell, self._lose, name=self._name, within_s=within_s
        )

    async def _until_over(self, until_gone: Callable[[], Awaitable[str]]) -> str:
        """Until the connection is lost, or the target leaves: then the reason."""
        gone = ""

        async def watch() -> None:
            nonlocal gone
            gone = await until_gone()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await self._lost.wait()
            nursery.cancel_scope.cancel()
        return self._gone or gone

    async def _until_gone(self) -> str:
        """As `agent.Agent` says."""
        return await self._agent.until_gone(self._session.tell_user)

    async def _settle_in(self, peer: Peer, welcome: Welcome, former: Peer | None) -> str:
        """Gives the former connection up when the new one has all that it had."""
        try:
            with contextlib.suppress(ConnectionLost):  # seen by `_lose` too
                await self._settle(peer, welcome, former)
        finally:
            if former is not None:
                with trio.CancelScope(shield=True):
                    await former.aclose()
        return await self._until_gone()

    def _use(self, peer: Peer) -> None:
        self._peer = peer
        # All connections count together.
        self.requests_sent += peer.requests_sent
        peer.requests_sent = self.requests_sent
        self._patience_ends_at = math.inf
        self._since = trio.current_time()
        self._lost = trio.Event()
        self._gone = ""
        if peer.ending is not None:  # before it could be lost
            self._lose(peer, peer.ending)
        self._changed.set()
        self._changed = trio.Event()

    def _lose(self, peer: Peer, error: Exception) -> None:
        if peer is self._peer and not self._lost.is_set():
            self._error = error
            self._gone = self._agent.lost(error)
            self._patience_ends_at = trio.current_time() + self._session.settings.reconnect_timeout_s
            self._lost.set()
            if not self._agent.comes_back:
                self._changed.set()

    def _tell(self, sentence: str, *, again: bool = True) -> None:
        self._session.tell_user(sentence, again=again)
