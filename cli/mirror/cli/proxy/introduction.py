"""Connecting to an agent, until it has introduced itself."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping

import trio

from mirror.cli.errors import TargetError
from mirror.cli.proxy.agent import Agent, Tell
from mirror.cli.proxy.session import Session
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.frame import ProtocolError
from mirror.protocol.messages import Welcome
from mirror.protocol.stream import Handler, Peer

_WITHIN_S = 30.0
"""From a connection to the agent's introduction; a busy machine needs a second."""


async def introduce(
    session: Session, agent: Agent, handler: Handler, tell: Tell, lost: Callable[[Exception], None]
) -> tuple[Peer, Welcome]:
    """Connects to an agent, as often as that is worth another try.

    Args:
        session: In which the connection is kept.
        agent: The agent.
        handler: For what it says of its own accord.
        tell: Shows the user the steps.
        lost: Called when the connection has ended after the introduction.

    Raises:
        MirrorError: There is no agent, or it could not do its work.
    """
    target = session.settings.target
    while True:
        stream = await agent.connect(tell)
        peer = Peer(stream, is_client=True, handler=handler, user=who(session.order.variables))
        session.start(_keep, peer, lost)
        try:
            with trio.fail_after(_WITHIN_S):
                welcome = await peer.handshake()
        except trio.TooSlowError:
            raise TargetError(f"the agent of {target} did not answer within {_WITHIN_S:.0f} s; try again") from None
        except ConnectionLost as error:
            if (failure := await agent.explain(error)) is not None:
                raise failure from None
        else:
            assert isinstance(welcome, Welcome)
            return peer, welcome


async def _keep(peer: Peer, lost: Callable[[Exception], None]) -> None:
    try:
        await peer.run()
    except (ConnectionLost, ProtocolError) as error:
        with contextlib.suppress(ConnectionLost):  # before the introduction
            await peer.handshake()
            lost(error)


def who(variables: Mapping[str, str]) -> str:
    """The user, for others who want the same port of the same target: `anna@laptop`."""
    name = variables.get("USER") or variables.get("LOGNAME") or f"uid-{os.getuid()}"
    return f"{name}@{socket.gethostname()}"
