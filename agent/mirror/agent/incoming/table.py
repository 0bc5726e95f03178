"""The agent's end of the table in the target: changes go to the keeper process, and its loss is noticed.

`Table.start` starts the keeper in the target's network namespace, `apply` makes and changes the table, `close`
removes it. While `serve` runs, the keeper is told four times a second that this loop runs, and renews what expires by
itself (`at_each_tick`): when this process and the keeper are both stopped, the rules lose their effect. A keeper that
does not answer for long is ended. If it ends all the same, `serve` returns: the table is gone and the target has its
traffic back.

What is in the table is `ruleset`'s affair, and what to do after a loss `incoming`'s.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import trio

from mirror.agent.incoming import keeper, netlink
from mirror.agent.incoming.namespace import NamespaceThread, keep_net_admin

_SEQUENCE = struct.Struct("=I")
_ANSWER_TIMEOUT_S = 2.0
"""A transaction takes a millisecond; a keeper that takes so long has been stopped."""
_UNANSWERED_TICKS_MAX = 20
"""A keeper that leaves so many without an answer (five seconds) has been stopped; or the kernel is busy beyond use.

Not a time: that goes on while this process is stopped itself.
"""
_MESSAGES_PER_BATCH = 1000
"""What is longer is sent in several transactions; a message of 100 bytes and its answer fit the link's buffer."""


class TableLostError(Exception):
    """The keeper, and with it the table, is gone."""


class Table:
    """A table that is there for as long as this object's keeper lives."""

    def __init__(self, link: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self._lost = trio.Event()
        self._is_wanted = True
        self._gone = trio.Event()
        self._link = link
        self._process = process
        self._sequence = 0
        self._tick_message = keeper.TICK
        self._unanswered_ticks = 0
        self._turn = trio.Lock()
        self._answers_in, self._answers = trio.open_memory_channel[bytes](16)

    @classmethod
    async def start(cls, namespace: NamespaceThread) -> Table:
        """Starts the keeper; the table is made by the first `apply`. Run `serve` next.

        Raises:
            TableLostError: The keeper did not come up.
        """
        link, process = await namespace.run(_start_keeper)
        return cls(link, process)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ticks and receives until the table is gone: lost, or closed. Cancelled, it removes the table."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._receive)
                task_status.started()
                nursery.start_soon(self._tick)
                await self._lost.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._answers_in.close()
            if self._lost.is_set() and self._is_wanted:
                # There will be another table, and connections that go on with it.
                with contextlib.suppress(OSError):
                    self._link.send(keeper.FAREWELL)
            self._link.close()
            with trio.CancelScope(shield=True):
                await _reap(self._process)
            self._gone.set()

    async def close(self) -> None:
        """Removes the table and waits until it is gone."""
        self._is_wanted = False
        self._lost.set()
        await self._gone.wait()

    def at_each_tick(self, messages: list[bytes]) -> None:
        """Has the keeper carry out these changes with each tick from here on, whatever the kernel says to them."""
        self._tick_message = keeper.TICK + (netlink.batch(messages) if messages else b"")

    def at_the_end(self, request: bytes) -> None:
        """Has the keeper make this netlink request when the table is gone and the agent does not want it back.

        Raises:
            TableLostError: The keeper is gone.
        """
        try:
            self._link.send(keeper.FAREWELL + request)
        except OSError as error:
            raise TableLostError from error

    async def apply(self, messages: list[bytes]) -> None:
        """Carries out these changes, all or none of them (if there are no more than a thousand).

        Raises:
            TableLostError: The keeper is gone.
            OSError: The kernel's refusal.
        """
        async with self._turn:
            for start in range(0, len(messages), _MESSAGES_PER_BATCH):
                number = await self._exchange(netlink.batch(messages[start : start + _MESSAGES_PER_BATCH]))
                if number:
                    raise OSError(number, os.strerror(number))

    async def _exchange(self, batch: bytes) -> int:
        """The errno of one transaction. Not cancelled half-way: the next answer would be taken for this one's."""
        self._sequence += 1
        sequence = _SEQUENCE.pack(self._sequence)
        try:
            self._link.send(sequence + batch)
            with trio.fail_after(_ANSWER_TIMEOUT_S) as scope:
                scope.shield = True
                while (answer := await self._answers.receive())[:4] != sequence:
                    pass
        except (OSError, trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise TableLostError from error
        except trio.TooSlowError as error:
            self._process.kill()
            raise TableLostError from error
        return netlink.first_error(answer[4:])

    async def _tick(self) -> None:
        while True:
            if self._unanswered_ticks == _UNANSWERED_TICKS_MAX:
                self._process.kill()  # and `_receive` sees its end
            self._unanswered_ticks += 1
            try:
                self._link.send(self._tick_message)
            except BlockingIOError:
                pass  # the keeper has plenty to do, and each message of ours shows it that this loop runs
            except OSError:
                self._lost.set()
            await trio.sleep(keeper.TICK_S)

    async def _receive(self, *, task_status: trio.TaskStatus[None]) -> None:
        is_up = False
        while True:
            try:
                message = self._link.recv(1 << 20)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._link)
                continue
            except OSError:
                message = b""
            if not is_up:
                # Whatever it is, its word that it is there or its end: `apply` may begin, and will see.
                is_up = True
                task_status.started()
            if not message:
                self._lost.set()
                return
            if message == keeper.TICK:
                self._unanswered_ticks = 0
            else:
                self._answers_in.send_nowait(message)


def _start_keeper() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Runs in the namespace's thread, whose namespace and capabilities the child gets."""
    keep_net_admin()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        for end in ours, theirs:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        program = Path(keeper.__file__)
        # -I -S: nothing but the bare interpreter, whatever the agent's surroundings are.
        command = [sys.executable, "-I", "-S", str(program), str(theirs.fileno()), str(os.getpid())]
        process = subprocess.Popen(
            command,
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-Z that stops the agent must not stop its watchdog
            cwd="/",
        )
    ours.setblocking(False)
    return ours, process


async def _reap(process: subprocess.Popen[bytes]) -> None:
    """Waits for the keeper, which ends by itself when the link is closed; kills one that hangs."""
    with trio.move_on_after(keeper.PATIENCE_S):
        pidfd = os.pidfd_open(process.pid)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
    if process.poll() is None:
        process.kill()
    process.wait()


def describe(error: OSError) -> str:
    """One sentence for a refusal of nf_tables, with a remedy."""
    match error.errno:
        case errno.EPERM | errno.EACCES:
            return (
                "incoming traffic needs CAP_NET_ADMIN in the target's network namespace: run mirror as root, or against"
                " a target in a user namespace of yours; on Kubernetes let the agent have NET_ADMIN"
            )
        case errno.EPROTONOSUPPORT | errno.EAFNOSUPPORT | errno.ENOENT | errno.EOPNOTSUPP | errno.EINVAL:
            return (
                "incoming traffic needs nf_tables with owned tables (Linux 5.12 or later) on the target's machine:"
                f" its kernel says {error.strerror}"
            )
        case _:
            return f"the rules for incoming traffic could not be put into the target: {error.strerror}"
