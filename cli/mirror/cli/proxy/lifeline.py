"""Whether a session still has anybody. Its end must be seen within a second, whatever the processes do or die of.

Two things hold a session:

- a *pidfd* of each process that registered, and from the beginning of the one that becomes the program: nothing in
  the process can undo it, but a child that was forked and never asked us anything is not known by it;
- a *lifeline*: a loopback TCP connection of which the layer keeps only a mapped page, so that no `close` can reach
  it; forked children inherit it, and the kernel ends it when the last holder is dead. It is lost by exec.

What neither covers is the moment between: so the session ends when both have been without holders for GRACE_S.
A connection to the lifeline's port counts only once a registered process has named its port, since anybody on the
machine could connect there.

A lifeline also proves that a process is one of the session's, whoever its parent and its user are: there is no way to
come by the mapping but fork.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator

import trio

from mirror.cli.proxy.listening import connected_to

GRACE_S = 0.3
"""Longer than from the fork of a dying parent to the first request of its child."""
_NAMED_WITHIN_S = 5.0
"""A process connects its lifeline and then registers at once."""
_LOOPBACK = bytes([127, 0, 0, 1])
_SOCKET_MAPPED = re.compile(rb"^\S+ \S+ \S+ \S+ (\d+) +socket:\[\1\]$", re.MULTILINE)
"""A row of /proc/PID/maps (proc(5)). Names of files begin with a slash."""


class Lifelines:
    """Counts what holds the session, and listens for lifelines.

    Attributes:
        port: Of 127.0.0.1, where lifelines connect.
        grace_s: For how long nobody may hold the session; 0 until the program begins.
    """

    def __init__(self) -> None:
        self._holders = 0
        self._some = trio.Event()
        self._none = trio.Event()
        self._none.set()
        self._named: dict[int, trio.Event] = {}
        self.port = 0
        self.grace_s = 0.0

    async def listen(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accepts lifelines until cancelled."""
        with trio.socket.socket() as listener:
            await listener.bind(("127.0.0.1", 0))
            listener.listen(socket.SOMAXCONN)
            self.port = listener.getsockname()[1]
            task_status.started()
            async with trio.open_nursery() as nursery:
                while True:
                    line, (_, port) = await listener.accept()
                    nursery.start_soon(self._follow, line, port)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The session does not end while a `with` of this is open."""
        self._holders += 1
        if self._holders == 1:
            self._some.set()
            self._none = trio.Event()
        try:
            yield
        finally:
            self._holders -= 1
            if self._holders == 0:
                self._none.set()
                self._some = trio.Event()

    def name(self, port: int) -> None:
        """A registered process says that the lifeline from this port is its own."""
        self._named.setdefault(port, trio.Event()).set()

    def is_held_by(self, pid: int) -> bool:
        """Whether a process holds a lifeline that a registered process has named.

        Of another user's process only root is told.
        """
        named = {port for port, event in self._named.items() if event.is_set()}
        try:
            with open(f"/proc/{pid}/maps", "rb") as file:
                mapped = {int(inode) for inode in _SOCKET_MAPPED.findall(file.read())}
            return any(
                inode in mapped and end.port in named and end.address == _LOOPBACK
                for inode, end in (connected_to(self.port) if mapped else {}).items()
            )
        except OSError:
            return False

    async def wait_over(self) -> None:
        """Returns when nothing has held the session for `grace_s`."""
        while True:
            await self._none.wait()
            with trio.move_on_after(self.grace_s) as grace:
                await self._some.wait()
            if grace.cancelled_caught:
                return

    async def _follow(self, line: trio.socket.SocketType, port: int) -> None:
        named = self._named.setdefault(port, trio.Event())
        with line:
            try:
                with trio.move_on_after(_NAMED_WITHIN_S):
                    await named.wait()
                if named.is_set():
                    with self.held():
                        await _wait_end(line)
            finally:
                self._named.pop(port, None)


async def _wait_end(line: trio.socket.SocketType) -> None:
    """Until the last process that maps it is dead. Nobody sends anything; whoever does is not the layer."""
    with contextlib.suppress(OSError):  # reset
        await line.recv(1)
