"""Connecting to an agent, until it has introduced itself."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping

import trio

from mirror.cli.proxy.agent import Agent, Tell
from mirror.cli.proxy.session import Session
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.frame import ProtocolError
from mirror.protocol.messages import Message, Welcome
from mirror.protocol.stream import Peer

WITHIN_S = 30.0
"""From a connection to the agent's introduction; a busy machine needs a second."""

Hear = Callable[[Message, Peer], Awaitable[Message | None]]
"""Handles what an agent says of its own accord."""


async def introduce(
    session: Session,
    agent: Agent,
    hear: Hear,
    tell: Tell,
    lost: Callable[[Peer, Exception], None],
    *,
    name: str = "",
    within_s: float = WITHIN_S,
) -> tuple[Peer, Welcome]:
    """Connects to an agent, as often as that is worth another try.

    Args:
        session: In which the connection is kept.
        agent: The agent.
        hear: For what it says of its own accord.
        tell: Shows the user the steps.
        lost: Called when the connection has ended after the introduction.
        name: Of all connections that take each other's place, known to nobody else.
        within_s: How long it has to introduce itself once it is connected.

    Raises:
        MirrorError: There is no agent, or it could not do its work.
    """
    while True:
        peer = _peer(await agent.connect(tell), hear, who(session.order.variables), name)
        session.start(_keep, peer, lost)
        try:
            welcome = await _handshake(peer, within_s)
        except trio.TooSlowError:
            if (failure := await agent.explain_silence(within_s)) is not None:
                raise failure from None
        except ConnectionLost as error:
            if (failure := await agent.explain(error)) is not None:
                raise failure from None
        else:
            agent.welcomed()
            return peer, welcome


async def _handshake(peer: Peer, within_s: float) -> Welcome:
    """What the agent says of itself; whoever does not learn it, for any reason, has no connection any more."""
    is_met = False
    try:
        with trio.fail_after(within_s):
            welcome = await peer.handshake()
        assert isinstance(welcome, Welcome)
        is_met = True
    finally:
        if not is_met:
            with trio.CancelScope(shield=True):
                await peer.aclose()
    return welcome


def _peer(stream: trio.abc.Stream, hear: Hear, user: str, name: str) -> Peer:
    async def handle(message: Message) -> Message | None:
        return await hear(message, peer)

    peer = Peer(stream, is_client=True, handler=handle, user=user, session=name)
    return peer


async def _keep(peer: Peer, lost: Callable[[Peer, Exception], None]) -> None:
    try:
        await peer.run()
    except (ConnectionLost, ProtocolError) as error:
        with contextlib.suppress(ConnectionLost):  # before the introduction
            await peer.handshake()
            lost(peer, error)


def who(variables: Mapping[str, str]) -> str:
    """The user, for others who want the same port of the same target: `anna@laptop`."""
    name = variables.get("USER") or variables.get("LOGNAME") or f"uid-{os.getuid()}"
    return f"{name}@{socket.gethostname()}"
