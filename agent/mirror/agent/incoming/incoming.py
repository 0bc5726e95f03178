"""Incoming traffic of one target: subscriptions in, connections out.

A connection to a subscribed port is accepted by `interception` in the target's place. If somebody steals the port
it is joined with a channel to that owner; if not, or if that owner refuses, with the target's own process, which
sees the caller's address; whoever mirrors the port gets a copy of what the caller sends.

An error in the code that serves one connection ends that connection, and nobody else's.

At the end the rules go first, connections that are on their way to the target's process get a moment to finish,
then the table goes.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

import msgspec
import trio

from mirror.agent.incoming import claims, relay, sockets
from mirror.agent.incoming.claims import Claim
from mirror.agent.incoming.connection import Connection
from mirror.agent.incoming.copies import Copy
from mirror.agent.incoming.interception import HANDSHAKE_S, Interception
from mirror.agent.incoming.namespace import NamespaceThread, in_namespace
from mirror.agent.incoming.node import addresses_of_calls_from, is_the_nodes_own
from mirror.agent.incoming.owner import Owner
from mirror.agent.incoming.probes import begins_as_probe
from mirror.agent.incoming.ruleset import Support
from mirror.agent.incoming.served import is_served_outside
from mirror.agent.incoming.subscriptions import Route, Subscriptions
from mirror.agent.incoming.table import describe
from mirror.protocol.messages import Accepted, SocketAddress, Subscribe
from mirror.protocol.stream import RequestFailed

_LOG = logging.getLogger(__name__)

DRAIN_S = 0.4
"""How long connections to the target's process may go on after the end; a session must be gone within a second."""


@contextlib.asynccontextmanager
async def open_incoming(
    net_fd: int | None,
    *,
    node_fd: int | None = None,
    keep_from: Sequence[bytes] = (),
    support: Support | None = None,
    drain_s: float = DRAIN_S,
) -> AsyncIterator[Incoming]:
    """Incoming traffic for the length of a block. Nothing is touched before the first subscription.

    Args:
        net_fd: An open /proc/PID/ns/net of the target; None for this process's own. The process must already be in
            the user namespace that owns it and have CAP_NET_ADMIN and CAP_SYS_ADMIN there.
        node_fd: The same of a process of the target's machine; None where that cannot be seen.
        keep_from: Callers (4 or 16 bytes each) whose connections nobody may steal.
        support: What to use of the kernel; found out when needed if None.
        drain_s: How long leaving the block may wait for connections that are being passed on.

    Raises:
        OSError: The namespace may not be entered.
    """
    with in_namespace(net_fd) as namespace:
        async with trio.open_nursery() as nursery:
            is_the_nodes = is_the_nodes_own(net_fd, node_fd)
            incoming = Incoming(namespace, node_fd, keep_from, nursery, support, is_the_nodes=is_the_nodes)
            try:
                yield incoming
            finally:
                with trio.CancelScope(shield=True):
                    await incoming.end(drain_s)
                nursery.cancel_scope.cancel()


class Incoming:
    """See the module. Made by `open_incoming`."""

    def __init__(
        self,
        namespace: NamespaceThread,
        node_fd: int | None,
        keep_from: Sequence[bytes],
        nursery: trio.Nursery,
        support: Support | None,
        *,
        is_the_nodes: bool,
    ) -> None:
        self._namespace = namespace
        self._node_fd = node_fd
        self._keep_from = tuple(keep_from)
        self._nursery = nursery
        self._subscriptions = Subscriptions()
        self._interception = Interception(
            namespace,
            nursery,
            support,
            is_the_nodes=is_the_nodes,
            arrived=self._arrived,
            notice=self._notice,
            given_up=self._given_up,
        )
        self._outlets = sockets.Outlets(namespace)
        self._change = trio.Lock()
        self._claims: dict[int, Claim] = {}
        """The ports that are stolen, each claimed in the namespace."""
        self._copies: dict[Owner, set[Copy]] = {}
        self._stolen: dict[Owner, set[trio.CancelScope]] = {}
        self._passed_on: set[trio.CancelScope] = set()
        self._quiet = trio.Event()
        """Set while nothing is being passed on."""
        self._quiet.set()

    # --- what owners ask for ------------------------------------------------------------------------------

    async def subscribe(self, owner: Owner, wanted: Subscribe) -> None:
        """Gives the owner the connections to a port from here on; takes the place of its former one for the port.

        Raises:
            RequestFailed: EADDRINUSE if another session steals the port; else what the kernel refused, with a
            sentence.
        """
        if wanted.steal:
            kept = (*wanted.keep_from, *self._keep_from, *(await self._node(owner, wanted)))
            wanted = msgspec.structs.replace(wanted, keep_from=kept)
        async with self._change:
            former = self._subscriptions.get(owner, wanted.port)
            try:
                if wanted.steal:
                    await self._claim(owner, wanted.port)
                self._subscriptions.put(owner, wanted)
                await self._interception.intercept(self._subscriptions.rows())
            except OSError as error:
                if former is not None:
                    self._subscriptions.put(owner, former)
                else:
                    self._subscriptions.remove(owner, wanted.port)
                raise RequestFailed(error.errno or errno.EIO, describe(error)) from error
            finally:
                self._give_up_claims()
        await self._explain_loopback(owner, wanted)

    async def _node(self, owner: Owner, wanted: Subscribe) -> Sequence[bytes]:
        """From where the target's machine calls it, if that is to be left alone."""
        if not wanted.keep_node:
            return ()
        found: Sequence[bytes] = ()
        if self._node_fd is not None:
            with contextlib.suppress(OSError):
                found = await trio.to_thread.run_sync(addresses_of_calls_from, self._node_fd, self._namespace)
        if not found:
            self._nursery.start_soon(
                owner.notice,
                f"probes of port {wanted.port} that the kubelet makes come to the program, because the agent cannot see"
                " from which address its node calls the target: the agent's pod needs hostPID and SYS_ADMIN for that",
            )
        return found

    async def _explain_loopback(self, owner: Owner, wanted: Subscribe) -> None:
        """Tells users whose program is out of reach for the callers that they surely meant."""
        address = ipaddress.ip_address(wanted.address) if wanted.address else None
        if address is None or not address.is_loopback:
            return
        if await self._namespace.run(is_served_outside, wanted.port):
            host, anywhere = (str(address), "0.0.0.0") if address.version == 4 else (f"[{address}]", "::")
            self._nursery.start_soon(
                owner.notice,
                f"the program listens on {host}:{wanted.port} only, so callers from outside go to the target alone: let"
                f" it bind {anywhere} to get them",
            )

    async def unsubscribe(self, owner: Owner, port: int) -> None:
        """Ends a subscription; connections that were handed over go on. Does nothing where there is none."""
        async with self._change:
            await self._end_subscriptions(owner, [port])

    async def close(self, owner: Owner) -> None:
        """Ends all that the owner has, because it is gone: what it had stolen is reset, what it mirrored goes on."""
        for copy in self._copies.get(owner, ()):
            copy.stop(0)
        for scope in self._stolen.pop(owner, ()):
            scope.cancel()
        async with self._change:
            await self._end_subscriptions(owner, self._subscriptions.ports(owner))

    async def end(self, drain_s: float) -> None:
        """Gives everything back: first the new connections, then, within `drain_s`, those that are passed on."""
        async with self._change:
            for owner in self._subscriptions.owners():
                await self._end_subscriptions(owner, self._subscriptions.ports(owner))
        with trio.move_on_after(drain_s):
            await self._quiet.wait()
        for scope in self._passed_on:
            scope.cancel()
        for owner in {*self._stolen, *self._copies}:
            await self.close(owner)
        await trio.sleep(HANDSHAKE_S)
        await self._interception.close()
        self._outlets.close()

    async def _rest(self) -> None:
        """Leaves nothing in the target while nobody wants anything of it."""
        while not self._subscriptions:
            await self._quiet.wait()
            await trio.sleep(HANDSHAKE_S)
            async with self._change:
                if not self._subscriptions and self._quiet.is_set():
                    await self._interception.close()
                    return

    async def _end_subscriptions(self, owner: Owner, ports: Sequence[int]) -> None:
        for port in ports:
            self._subscriptions.remove(owner, port)
        if ports:
            try:
                await self._interception.intercept(self._subscriptions.rows())
            except OSError as error:
                self._notice(f"a port could not be given back to the target: {error.strerror}; end the session")
            if not self._subscriptions:
                self._nursery.start_soon(self._rest)
        self._give_up_claims()

    async def _claim(self, owner: Owner, port: int) -> None:
        if self._subscriptions.thief(port) is owner:
            return
        claimed = None
        if port not in self._claims:
            now = datetime.datetime.now(datetime.UTC)
            claimed = await self._namespace.run(claims.claim, port, owner.user, now)
        if claimed is None:
            who = await self._namespace.run(claims.holder, port)
            raise RequestFailed(
                errno.EADDRINUSE,
                f"port {port} of the target is taken by {who}; wait until that session has ended, or mirror the port",
            )
        self._claims[port] = claimed

    def _give_up_claims(self) -> None:
        for port in list(self._claims):
            if self._subscriptions.thief(port) is None:
                self._claims.pop(port).close()

    def _given_up(self) -> None:
        self._subscriptions.clear()
        self._give_up_claims()

    def _notice(self, text: str) -> None:
        for owner in self._subscriptions.owners():
            self._nursery.start_soon(owner.notice, text)

    # --- what becomes of a connection ---------------------------------------------------------------------

    def _arrived(self, accepted: socket.socket, local: SocketAddress) -> None:
        self._nursery.start_soon(self._contain, accepted, local)

    async def _contain(self, accepted: socket.socket, local: SocketAddress) -> None:
        try:
            peer = sockets.endpoint(accepted.family, accepted.getpeername())
        except OSError:
            accepted.close()  # it was reset before anybody looked
            return
        route = self._subscriptions.route(local, peer.address)
        try:
            with accepted:
                await self._serve(accepted, local, peer, route)
        except* Exception as group:
            self._report(group, local.port, (route.thief,) if route.thief is not None else route.mirrors)

    def _report(self, group: ExceptionGroup[Exception], port: int, owners: Iterable[Owner]) -> None:
        """Tells of an error that nobody has foreseen. The sentence is the same each time, so that it is read once."""
        _LOG.error("a connection to port %d failed", port, exc_info=group)
        for owner in owners:
            self._nursery.start_soon(
                owner.notice,
                f"connections to port {port} of the target were cut off by an error in mirror's agent; please report it"
                " with the file that MIRROR_LOG=FILE lets mirror write",
            )

    async def _serve(self, accepted: socket.socket, local: SocketAddress, peer: SocketAddress, route: Route) -> None:
        caller = Connection(accepted)
        copies = [self._copy(owner, Accepted(0, local, peer, steal=False)) for owner in route.mirrors]
        unanswered: relay.Unanswered | None = None
        try:
            is_kept = route.keeps_http_probes and await begins_as_probe(caller)
            if route.thief is not None and not is_kept:
                announced = Accepted(0, local, peer, steal=True)
                unanswered = await self._steal(route.thief, announced, caller, copies)
            if caller.is_open:
                await self._pass_on(caller, local, peer, copies, unanswered)
        finally:
            caller.reset()
            for copy in copies:
                copy.put_reset(0)

    async def _steal(
        self, thief: Owner, announced: Accepted, caller: Connection, copies: Sequence[Copy]
    ) -> relay.Unanswered | None:
        with _registered(self._stolen.setdefault(thief, set())):
            channel = await thief.deliver(announced)
            if channel is None:
                return None
            return await relay.steal(caller, channel, copies)
        caller.reset()  # the thief is gone, and with it what the caller has sent
        return None

    async def _pass_on(
        self,
        caller: Connection,
        local: SocketAddress,
        peer: SocketAddress,
        copies: Sequence[Copy],
        unanswered: relay.Unanswered | None,
    ) -> None:
        process: Connection | None = None
        if self._quiet.is_set():
            self._quiet = trio.Event()
        try:
            with _registered(self._passed_on):
                mark, source = await self._interception.way_back(peer)
                process = Connection(await self._outlets.take(local, mark, source))
                await process.connect(sockets.socket_name(local))
                await relay.pass_on(caller, process, copies, unanswered)
            caller.close()  # reached after `end` has run out of patience: in order, as a server that is restarted
        except OSError:
            caller.reset()  # nobody listens there: too late for a refusal, RST is what is left to say it
        except Exception:
            if process is not None:
                process.reset()
            raise
        finally:
            if process is not None:
                process.close()
            if not self._passed_on:
                self._quiet.set()

    def _copy(self, owner: Owner, announced: Accepted) -> Copy:
        copy = Copy(owner, announced)
        self._nursery.start_soon(self._run_copy, copy, announced.local.port)
        return copy

    async def _run_copy(self, copy: Copy, port: int) -> None:
        of_owner = self._copies.setdefault(copy.owner, set())
        of_owner.add(copy)
        try:
            await copy.run()
        except* Exception as group:
            self._report(group, port, [copy.owner])
        finally:
            of_owner.discard(copy)
            if not of_owner:
                self._copies.pop(copy.owner, None)


@contextlib.contextmanager
def _registered(scopes: set[trio.CancelScope]) -> Iterator[trio.CancelScope]:
    """A cancel scope that is in the set while it is open."""
    with trio.CancelScope() as scope:
        scopes.add(scope)
        try:
            yield scope
        finally:
            scopes.discard(scope)
