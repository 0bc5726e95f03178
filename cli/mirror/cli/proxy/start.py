"""The start of a session, in order, and its end in the reverse order.

    agent ── introduction ── environment ── parts ── Ready ── (the program runs) ── nobody left ── agent ── target

An agent on this machine, and its target, have been started before (`__main__`). Whatever ends a session (the last
process is dead, Ctrl-C during the start, an error) cancels one nursery and leaves nothing behind. Errors become one
sentence for `mirror exec`, which says it only when all is gone again.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import traceback
from collections.abc import Iterator

import trio

from mirror.cli import inject
from mirror.cli.errors import EXIT_FAILED, MirrorError, TargetError
from mirror.cli.handover import Order, Ready, Refusal
from mirror.cli.proxy.agent import Agent
from mirror.cli.proxy.connections import Connections
from mirror.cli.proxy.files import Files
from mirror.cli.proxy.incoming import Incoming
from mirror.cli.proxy.introduction import introduce
from mirror.cli.proxy.names import Names
from mirror.cli.proxy.outgoing import Outgoing
from mirror.cli.proxy.registration import Registration
from mirror.cli.proxy.replicas import Replicas
from mirror.cli.proxy.session import Session
from mirror.cli.settings import Settings
from mirror.layer import LayerMissing, library_path
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.messages import Accepted, EnvironmentRead, Message, Notice, ReadEnvironment
from mirror.protocol.stream import Handler, RequestFailed


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
    await _meet(session, agent, functools.partial(_hear, session, incoming))
    incoming.replicas = Replicas(session, incoming, agent.replicas)
    await session.progress("agent is there")
    environment = EnvironmentRead(())
    try:
        if "environment" not in session.missing:
            environment = await session.peer.request(ReadEnvironment(), EnvironmentRead)
    except RequestFailed as error:
        raise TargetError(f"the environment of {session.settings.target} cannot be read: {error}") from None
    except ConnectionLost as error:
        raise await agent.explain(error) or TargetError(
            f"the agent of {session.settings.target} ended: {error}"
        ) from None
    if session.settings.host_name:
        session.host_name, session.domain_name = environment.host_name, environment.domain_name
    outgoing = Outgoing(session, connections)
    files = Files(session)
    registration = Registration(session, injector, outgoing, incoming)
    for part in (connections, incoming, outgoing, files, Names(session), registration):
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


async def _hear(session: Session, incoming: Incoming, message: Message) -> Message | None:
    """What the agent says of its own accord."""
    match message:
        case Notice(text):
            session.tell_user(text)
        case Accepted():
            await incoming.accepted(message, session.peer)
        case _:
            raise RequestFailed(errno.ENOSYS, f"the proxy does not expect {type(message).__name__}")
    return None


async def _meet(session: Session, agent: Agent, handler: Handler) -> None:
    """Connects, waits for the agent's introduction, and sees whether it can do what this session needs.

    Raises:
        MirrorError: It cannot, or there is none.
    """
    target = session.settings.target
    session.peer, welcome = await introduce(session, agent, handler, session.progress, session.agent_lost)
    session.is_introduced = True
    session.probes = agent.probes
    reasons = {**welcome.reasons, **agent.reasons}
    session.missing = {
        capability: reasons.get(capability, f"the agent of {target} cannot do {capability} here")
        for capability in ("environment", "files", "names", "outgoing", "incoming")
        if capability not in welcome.capabilities
    }
    for capability in _needed(session.settings):
        if capability in session.missing:
            raise TargetError(session.missing[capability])


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
