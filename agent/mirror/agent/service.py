"""The agent at work: the worker's link, the clients, and whatever ends them, in one trio run.

Target, worker and incoming traffic are shared by all clients. What goes wrong with one of them ends that one.

An agent with a listener ends by itself: when the first client does not come in time, or some time after the last one
has gone. It also ends with its target, and says so: nothing is answered from what is left of a dead container, whose
volumes and network are being taken away, and what comes next (the container's next process, say) can be found only by a
new agent. A client that cannot connect again keeps its agent, which has it told. By SIGTERM it ends at once, unless it
is in the target's pod, where that means that the pod is being removed: it then stays as long as somebody needs it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import trio

from mirror.agent import environment
from mirror.agent.client import Client
from mirror.agent.entry import Ready
from mirror.agent.gate import Gate
from mirror.agent.incoming import Incoming, open_incoming, unavailable
from mirror.agent.options import Options
from mirror.agent.presence import Presence
from mirror.agent.target import Target
from mirror.agent.worker import Worker, WorkerLost
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.frame import ProtocolError

_LOG = logging.getLogger(__name__)

_ENDS_UNUSED = "the agent was ending, because nobody had used it for a while; try again"


def run(target: Target, worker_pid: int, link: socket.socket, gate: Gate, options: Options) -> str | None:
    """Serves the clients that come through `gate` until there are none any more.

    Args:
        target: The process to stand in for; its user namespace has been entered.
        worker_pid: The worker process.
        link: The agent's end of the socket pair to it.
        gate: Where clients come from.
        options: What is wanted of this agent.

    Returns:
        None, or a sentence about why it could not go on, for those who have not been told.
    """
    # Everything is imported: see `__main__`.
    gc.freeze()
    gc.enable()
    return trio.run(_serve, target, Worker(worker_pid, link), gate, options)


async def _serve(target: Target, worker: Worker, gate: Gate, options: Options) -> str | None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        try:
            ready, reasons = await _get_ready(worker, target, options)
        except WorkerLost as lost:
            return str(lost)
        async with _incoming_unless("incoming" in reasons, target, options) as incoming:
            service = Service(target, worker, incoming, ready, reasons, options)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_on_signal, service, target, signals)
                await service.run(gate)
                nursery.cancel_scope.cancel()
            # First of all: what comes next takes a while, in which nobody else should wait to be served.
            gate.turn_away(service.farewell or _ENDS_UNUSED, is_targets_end=service.is_targets_end)
    return service.failure


async def _get_ready(worker: Worker, target: Target, options: Options) -> tuple[Ready, dict[str, str]]:
    """What the worker found, and for each feature that cannot be had a sentence."""
    missing: dict[str, str] = {}

    async def probe(feature: str, unavailable: Callable[[Any], str | None], argument: object) -> None:
        if feature in options.features:
            reason = await trio.to_thread.run_sync(unavailable, argument)
            if reason is not None:
                missing[feature] = reason

    ready = lost = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(probe, "environment", environment.unavailable, target)
        nursery.start_soon(probe, "incoming", unavailable, target.network_fd)
        try:
            ready = await worker.ready()
        except WorkerLost as error:
            lost = error
    if ready is None:
        assert lost is not None
        raise lost
    return ready, {**ready.reasons, **missing}


async def _end_on_signal(service: Service, target: Target, signals: AsyncIterator[int]) -> None:
    async for number in signals:
        if number == signal.SIGTERM and _is_in_its_pod(target):
            service.linger()
        else:
            await service.end("the agent was told to end by a signal")


def _is_in_its_pod(target: Target) -> bool:
    """Whether the agent is an ephemeral container of the target's pod, whose first process the target is."""
    return target.pid == 1 and not target.is_own


def _incoming_unless(
    is_missing: bool, target: Target, options: Options
) -> contextlib.AbstractAsyncContextManager[Incoming | None]:
    if is_missing:
        return contextlib.nullcontext()
    return open_incoming(target.network_fd, node_fd=target.node_network_fd, keep_from=options.keep_from)


class Service:
    """All clients of the agent.

    Args:
        target: What they all want to stand in for.
        worker: Shared by them.
        incoming: Shared by them; None where incoming traffic cannot be had.
        ready: What the worker found.
        reasons: For each feature that is missing, a sentence.
        options: What is wanted of this agent.

    Attributes:
        farewell: What those who come are told instead of being served, once that is so for a reason.
        is_targets_end: Whether that is because the target has ended.
        failure: What the agent's starter is to learn, in the end.
    """

    def __init__(
        self,
        target: Target,
        worker: Worker,
        incoming: Incoming | None,
        ready: Ready,
        reasons: dict[str, str],
        options: Options,
    ) -> None:
        self.farewell: str | None = None
        self.is_targets_end = False
        self.failure: str | None = None
        self._target = target
        self._worker = worker
        self._incoming = incoming
        self._ready = ready
        self._reasons = reasons
        self._clients: set[Client] = set()
        self._presence = Presence(options.first_client_within_s, options.grace_s)
        self._scope = trio.CancelScope()

    async def run(self, gate: Gate) -> None:
        """Serves until there are no clients any more, or until `end`."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_with_worker, gate)
                nursery.start_soon(self._follow_target, nursery, gate)
                if gate.connection is not None:
                    await self._serve(gate, gate.connection)
                else:
                    nursery.start_soon(self._admit, nursery, gate)
                    print(f"mirror's agent listens on {gate.address}", flush=True)
                    await self._presence.until_unused()
                nursery.cancel_scope.cancel()

    async def end(self, reason: str, *, is_targets_end: bool = False) -> None:
        """Says goodbye to all clients; `run` then returns."""
        self.farewell, self.is_targets_end = reason, is_targets_end
        async with trio.open_nursery() as nursery:
            for client in list(self._clients):
                nursery.start_soon(functools.partial(client.end, reason, is_targets_end=is_targets_end))
        self._scope.cancel()

    def linger(self) -> None:
        """Only those who are there are served: the pod is being removed, and its target may go on for a while."""
        self._presence.waste_no_time()

    # --- clients ------------------------------------------------------------------------------------------

    async def _admit(self, nursery: trio.Nursery, gate: Gate) -> None:
        while True:
            nursery.start_soon(self._serve, gate, await gate.accept())

    async def _serve(self, gate: Gate, connection: socket.socket) -> None:
        """Serves one client until it is gone. Nothing that goes wrong with it goes any further."""
        stream = await gate.admit(connection)
        if stream is None:
            return
        client = Client(
            stream,
            self._target,
            self._worker,
            self._incoming,
            self._ready,
            self._reasons,
            ends_with_target=gate.listener is not None,
        )
        self._clients.add(client)
        self._presence.come()
        try:
            async with trio.open_nursery() as nursery:
                if self.farewell is not None:  # it was let in while the others were told
                    nursery.start_soon(client.send_away, self.farewell, self.is_targets_end)
                nursery.start_soon(self._end_former, client)
                for notice in self._ready.notices:
                    nursery.start_soon(client.notice, notice)
                await client.serve()
                nursery.cancel_scope.cancel()
        except* (ConnectionLost, ProtocolError):
            pass  # the client is gone, or has been told what it did wrong
        except* Exception as group:
            _LOG.error("a client could not be served any more", exc_info=group)
        finally:
            self._clients.discard(client)
            client.is_over.set()
            self._presence.go()
            await trio.aclose_forcefully(stream)

    async def _end_former(self, client: Client) -> None:
        """Ends the connection that a client had before: it may be dead without our knowing, and have ports stolen."""
        with contextlib.suppress(ConnectionLost):
            client.session = (await client.introduction()).session
            for other in list(self._clients):
                if other is not client and other.session == client.session != "":
                    await other.end("this session has connected again")
                    await other.is_over.wait()
        client.is_alone.set()

    # --- what ends them -----------------------------------------------------------------------------------

    async def _end_with_worker(self, gate: Gate) -> None:
        try:
            await self._worker.run()
        except WorkerLost as lost:
            if gate.listener is not None:
                self.failure = str(lost)
            await self.end(str(lost))

    async def _follow_target(self, nursery: trio.Nursery, gate: Gate) -> None:
        target = self._target
        await trio.lowlevel.wait_readable(target.pidfd)
        if gate.listener is None:
            for client in self._clients:
                nursery.start_soon(
                    client.notice,
                    f"process {target.pid}, the target, has ended; its files and network can still be reached from this"
                    " session, its environment cannot",
                )
        else:
            await self.end(
                f"process {target.pid}, the target of this agent, has ended; start again when there is another",
                is_targets_end=True,
            )
