"""The start of a session, in order, and its end in the reverse order.

    agent ── introduction ── environment ── parts ── Ready ── (the program runs) ── nobody left ── agent ── target

An agent on this machine, and its target, have been started before (`__main__`). Whatever ends a session (the last
process is dead, Ctrl-C during the start, an error) cancels one nursery and leaves nothing behind. Errors become one
sentence for `mirror exec`, which says it only when all is gone again.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Iterator, Sequence
from typing import Protocol

import trio

from mirror.cli import inject
from mirror.cli.errors import EXIT_FAILED, MirrorError, TargetError
from mirror.cli.handover import Order, Ready, Refusal
from mirror.cli.proxy.agent import Agent
from mirror.cli.proxy.connections import Connections
from mirror.cli.proxy.files import Files
from mirror.cli.proxy.incoming import Incoming
from mirror.cli.proxy.names import Names
from mirror.cli.proxy.outgoing import Outgoing
from mirror.cli.proxy.registration import Registration
from mirror.cli.proxy.replicas import Replicas
from mirror.cli.proxy.session import Session
from mirror.cli.proxy.uplink import Uplink
from mirror.cli.settings import Settings
from mirror.layer import LayerMissing, library_path
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.features import FEATURES
from mirror.protocol.messages import EnvironmentRead, ReadEnvironment, Welcome
from mirror.protocol.stream import Peer, RequestFailed


async def serve(order: Order, begun: Agent | None, link: socket.socket) -> None:
    """Serves one session from beginning to end.

    Args:
        order: What is wanted.
        begun: The target's agent, if it has been started; None: it is to be in a cluster.
        link: To `mirror exec`.
    """
    if begun is not None:
        agent = begun
    else:
        # What talks to clusters takes a while to import, and other targets do without.
        from mirror.cli.proxy.cluster_agent import ClusterAgent

        agent = ClusterAgent(order)
    refusal = None
    async with agent.held(), trio.open_nursery() as nursery:
        session = Session(order, trio.SocketStream(trio.socket.from_stdlib_socket(link)), nursery)
        injector = inject.Injector()
        session.start(injector.warm_up)
        try:
            await session.open()
            await _begin(session, agent, injector)
            await trio.sleep_forever()
        except ProcessLookupError:  # `mirror exec` has been interrupted
            pass
        except MirrorError as error:
            refusal = Refusal(error.sentence, error.exit_status)
        except Exception as error:
            traceback.print_exc()
            refusal = Refusal(f"the session's proxy failed ({error!r}); please report it", EXIT_FAILED)
        finally:
            session.end()  # and with it the agent's connection
            await agent.end(at_once=not session.is_introduced)
    if refusal is not None:
        await session.say(refusal)


async def _begin(session: Session, agent: Agent, injector: inject.Injector) -> None:
    """From an agent that may still be starting to a program that may begin.

    Raises:
        MirrorError: The agent could not do its work, or mirror is not installed completely.
    """
    try:
        library = library_path()
    except LayerMissing as error:
        raise MirrorError(str(error)) from None
    if set(str(library)) & set(": "):
        raise MirrorError(
            f"{library} cannot be preloaded, since LD_PRELOAD takes no paths with spaces or colons; install mirror in "
            f"another folder"
        )
    connections = Connections()
    incoming = Incoming(session, connections)
    incoming.replicas = Replicas(session, incoming.hear, agent)
    names, files = Names(session), Files(session)
    meeting = _Meeting(session, agent, incoming, (names, files))
    session.uplink = Uplink(
        session,
        agent,
        incoming.hear,
        meeting.settle,
        f"what the program asks of the target waits up to {session.settings.reconnect_timeout_s:.0f} s for another, "
        f"its connections are reset, and what comes to the target stays there",
    )
    await session.uplink.begin(session.progress)
    session.start(session.uplink.keep)
    await session.progress("agent is there")
    environment = EnvironmentRead(())
    try:
        if "environment" not in session.missing:
            environment = await session.uplink.request(ReadEnvironment(), EnvironmentRead)
    except RequestFailed as error:
        raise TargetError(f"the environment of {session.settings.target} cannot be read: {error}") from None
    except ConnectionLost as error:
        failure = None if agent.comes_back else await agent.explain(error)
        raise failure or TargetError(f"the agent of {session.settings.target} ended: {error}") from None
    if session.settings.host_name:
        session.host_name, session.domain_name = environment.host_name, environment.domain_name
    outgoing = Outgoing(session, connections)
    registration = Registration(session, injector, outgoing, incoming)
    for part in (connections, incoming, outgoing, files, names, registration):
        session.layers.add_handlers(part.handlers())
    for run in (files.run, incoming.run):
        await session.start_and_wait(run)
    await session.hand_over(
        Ready(
            target=tuple(map(os.fsdecode, environment.variables)),
            session={"MIRROR_SOCKET": session.layers.address, "MIRROR_LIFELINE": str(session.lifelines.port)},
            library=str(library),
        )
    )


class _Forgetful(Protocol):
    """A part that remembers what an agent has said."""

    def forget(self) -> None: ...


class _Meeting:
    """What a session has to settle with an agent that has introduced itself."""

    def __init__(self, session: Session, agent: Agent, incoming: Incoming, parts: Sequence[_Forgetful]) -> None:
        self._session = session
        self._agent = agent
        self._incoming = incoming
        self._parts = parts

    async def settle(self, peer: Peer, welcome: Welcome, former: Peer | None) -> None:
        """Sees whether it can do what this session needs, and has it do what the one before did.

        Raises:
            TargetError: The first agent cannot do it.
        """
        session = self._session
        session.probes = self._agent.probes
        reasons = {**welcome.reasons, **self._agent.reasons}
        session.missing = {
            capability: reasons.get(capability, f"the agent of {self._agent.name} cannot do {capability} here")
            for capability in FEATURES
            if capability not in welcome.capabilities
        }
        for capability in _needed(session.settings):
            if capability in session.missing:
                if not session.is_introduced:
                    raise TargetError(session.missing[capability])
                session.tell_user(session.missing[capability])
        session.is_introduced = True
        for part in self._parts:
            part.forget()
        assert self._incoming.replicas is not None
        await self._incoming.replicas.adjust()
        await self._incoming.settle(peer, former)


def _needed(settings: Settings) -> Iterator[str]:
    """What a session cannot do without."""
    wanted = {
        "environment": settings.environment,
        "files": settings.fs_mode != "local",
        "names": settings.names,
        "outgoing": settings.outgoing,
        "incoming": settings.needs_incoming,
    }
    return (capability for capability, is_wanted in wanted.items() if is_wanted)
