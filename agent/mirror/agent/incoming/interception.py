"""How connections come to leave the kernel's ordinary way and arrive here: listeners, table and keeper as one thing.

Started by the first rows to intercept, in this order: listeners, a number among the agents in the same namespace,
the keeper process with the table, the rules. If the table is lost (the agent was stopped, the keeper was killed),
another one takes its place; one that is lost time and again is given up.

Not here: whose connection it is and what becomes of it (`incoming`).
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import logging
import socket
from collections.abc import Callable, Sequence

import trio

from mirror.agent.incoming import sockets
from mirror.agent.incoming.callers import Callers
from mirror.agent.incoming.namespace import NamespaceThread
from mirror.agent.incoming.ruleset import AGENTS_MAX, Intercepted, Mark, Ruleset, Support
from mirror.agent.incoming.support import probe
from mirror.agent.incoming.table import Table, TableLostError
from mirror.protocol.messages import SocketAddress

_LOG = logging.getLogger(__name__)

Arrival = Callable[[socket.socket, SocketAddress], None]
"""Takes an accepted socket and the address that its caller wanted."""

_LOSSES_MAX = 3
_LOSSES_WINDOW_S = 10.0
HANDSHAKE_S = 0.05
"""How long listeners should outlive the rules."""
_SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SHORTAGE_PAUSE_S = 0.05
_ACCEPTS_IN_A_ROW = 16


class Interception:
    """Leads connections of one network namespace to `arrived`.

    Args:
        nursery: Where the listeners and the keeper are served.
        support: What to use of the kernel; found out when needed if None.
        is_the_nodes: Whether the network is that of its machine. There may be very many rules of others there, and who
            lists them begins anew with each change: so ours are not renewed all the time.
        arrived: Called for every connection. Never raises.
        notice: Told a sentence about what the user should know.
        given_up: Called when the table is lost for good; nothing is intercepted any more.
    """

    def __init__(
        self,
        namespace: NamespaceThread,
        nursery: trio.Nursery,
        support: Support | None,
        *,
        is_the_nodes: bool,
        arrived: Arrival,
        notice: Callable[[str], None],
        given_up: Callable[[], None],
    ) -> None:
        self._namespace = namespace
        self._nursery = nursery
        self._support = support
        self._is_the_nodes = is_the_nodes
        self._arrived = arrived
        self._notice = notice
        self._given_up = given_up
        self._change = trio.Lock()
        self._rows: Sequence[Intercepted] = ()
        self._listeners: dict[socket.AddressFamily, socket.socket] = {}
        self._stage: socket.socket | None = None
        self._ruleset: Ruleset | None = None
        self._table: Table | None = None
        self._callers = Callers(namespace, self._add_caller, self._remove_caller)
        self._has_callers_chain = False
        self._complaints: set[str] = set()
        self._losses: collections.deque[float] = collections.deque(maxlen=_LOSSES_MAX)

    async def intercept(self, rows: Sequence[Intercepted]) -> None:
        """Intercepts exactly these from here on.

        Raises:
            OSError: The kernel's refusal; things are as they were. EBUSY: too many agents in this namespace.
        """
        async with self._change:
            former, self._rows = self._rows, rows
            try:
                if self._table is not None:
                    await self._table.apply(self._installed.intercept(rows))
                elif rows:
                    if self._ruleset is None:
                        await self._prepare()
                    await self._install()
            except TableLostError:
                pass  # `_keep` knows, and puts up another table with these rows
            except OSError:
                self._rows = former
                raise

    async def way_back(self, caller: SocketAddress) -> tuple[int, bytes | None]:
        """How to reach the target's own process with this caller's address.

        Returns:
            The mark that the connection must have, and the address to bind it to (None: any).
        """
        ruleset = self._ruleset
        if ruleset is None:
            return 0, None  # nothing is intercepted any more: any way leads there
        number: int | None = None
        try:
            number = await self._callers.number(caller.address)
        except (OSError, TableLostError) as error:
            self._complain(
                "the target's own process sees its own address instead of its callers', because those could not be put"
                f" back: {error or 'the rules were lost'}"
            )
        source = caller.address if number == 0 else None
        return ruleset.mark.passed_on(number or 0), source

    async def close(self) -> None:
        """Leaves nothing in the target. The next `intercept` starts anew.

        To be called when nothing is intercepted and no connection that has arrived is under way; and HANDSHAKE_S after
        the last rule went, for callers whose handshake had begun.
        """
        async with self._change:
            table, self._table = self._table, None
            if table is not None:
                await table.close()
            for listener in self._listeners.values():
                trio.lowlevel.notify_closing(listener)
                listener.close()
            self._listeners.clear()
            if self._stage is not None:
                self._stage.close()
            self._stage = self._ruleset = None
            self._callers = Callers(self._namespace, self._add_caller, self._remove_caller)
            self._has_callers_chain = False

    @property
    def _installed(self) -> Ruleset:
        assert self._ruleset is not None, "nothing has been intercepted yet"
        return self._ruleset

    async def _prepare(self) -> None:
        support = self._support if self._support is not None else await self._namespace.run(probe)
        if self._is_the_nodes:
            support = dataclasses.replace(support, expiry=False)
        for stage in range(AGENTS_MAX):
            self._stage = await self._namespace.run(sockets.claim, f"agent/{stage}")
            if self._stage is not None:
                break
        else:
            raise OSError(errno.EBUSY, f"its traffic is led to {AGENTS_MAX} sessions already; end one of them")
        ruleset = Ruleset(f"mirror-{stage}", Mark(stage), support, {})
        ports: dict[socket.AddressFamily, int] = {}
        for family in socket.AF_INET, socket.AF_INET6:
            transparent = ruleset.has_tproxy(family)
            listener = await self._namespace.run(lambda: sockets.listen(family, transparent=transparent))  # noqa: B023
            if listener is not None:
                self._listeners[family] = listener
                ports[family] = listener.getsockname()[1]
                self._nursery.start_soon(self._accept, listener, transparent)
        self._ruleset = dataclasses.replace(ruleset, listener_ports=ports)

    async def _install(self) -> None:
        """Starts a keeper and puts everything into a new table."""
        ruleset = self._installed
        try:
            table = await Table.start(self._namespace)
            await self._nursery.start(self._keep, table)
            try:
                await table.apply([*ruleset.create(), *ruleset.renew()])
                table.at_each_tick(ruleset.renew())
                table.at_the_end(ruleset.forget())
                if self._has_callers_chain:
                    await table.apply(ruleset.start_callers())
                    for number, address in self._callers.numbered():
                        await table.apply(ruleset.add_caller(number, address))
                await table.apply(ruleset.intercept(self._rows))
            except OSError:
                await table.close()
                raise
        except TableLostError as error:
            raise OSError(errno.EIO, "the process that holds the rules does not stay") from error
        self._table = table

    async def _keep(self, table: Table, *, task_status: trio.TaskStatus[None]) -> None:
        """Serves a table; when it is lost, puts another in its place."""
        await table.serve(task_status=task_status)
        async with self._change:
            if self._table is not table:
                return  # it never was in place, or was closed on purpose
            self._table = None
            if not self._rows:
                return
            self._losses.append(trio.current_time())
            try:
                if len(self._losses) == _LOSSES_MAX and self._losses[-1] - self._losses[0] < _LOSSES_WINDOW_S:
                    raise OSError(errno.EIO, f"they were lost {_LOSSES_MAX} times within {_LOSSES_WINDOW_S:.0f} s")
                await self._install()
            except OSError as error:
                self._rows = ()
                self._notice(
                    "incoming traffic stays with the target from here on: the rules could not be put back"
                    f" ({error.strerror}); start the session again"
                )
                self._given_up()
                return
        self._notice(
            "the target served its incoming traffic itself for a moment, because the agent was stopped or the process"
            " that holds the rules ended; it is led here again"
        )

    def _complain(self, text: str) -> None:
        """Gives a notice that would be the same for each connection once."""
        if text not in self._complaints:
            self._complaints.add(text)
            self._notice(text)

    async def _add_caller(self, number: int, address: bytes) -> None:
        table, ruleset = self._table, self._installed
        if not ruleset.support.callers:
            raise OSError(errno.EOPNOTSUPP, "the kernel has no network address translation")
        if table is None:
            return  # being put back, with all callers that are known then
        if not self._has_callers_chain:
            await table.apply(ruleset.start_callers())
            self._has_callers_chain = True
        await table.apply(ruleset.add_caller(number, address))

    async def _remove_caller(self, number: int, address: bytes) -> None:
        if self._table is not None:
            await self._table.apply(self._installed.remove_caller(number, address))

    async def _accept(self, listener: socket.socket, transparent: bool) -> None:
        in_a_row = 0
        while True:
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                in_a_row = 0
                try:
                    await trio.lowlevel.wait_readable(listener)
                except trio.ClosedResourceError:
                    return
                continue
            except OSError as error:
                if listener.fileno() < 0:
                    return
                if error.errno in _SHORTAGE:
                    self._complain(
                        "new connections to the target have to wait, because the agent has no descriptors left:"
                        " raise its limit of open files (nofile)"
                    )
                    await trio.sleep(_SHORTAGE_PAUSE_S)
                continue  # accept(2): errors of the connection, which is gone
            local = None
            try:
                local = sockets.destination(accepted, transparent=transparent)
            except Exception:
                _LOG.exception("where a connection was going cannot be told")
            if local is None or local.port == listener.getsockname()[1]:
                accepted.close()
            else:
                self._arrived(accepted, local)
            in_a_row += 1
            if in_a_row >= _ACCEPTS_IN_A_ROW:
                in_a_row = 0
                await trio.lowlevel.checkpoint()
