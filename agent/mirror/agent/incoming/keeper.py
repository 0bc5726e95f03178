r"""The process that holds the table: the agent's watchdog.

The kernel removes the table when the netlink socket that made it is closed. If the agent held that socket, a dead
agent would give the traffic back but a stopped one (SIGSTOP, a debugger, a loop that hangs) would keep it, and
every connection to the target's port would hang. So this process holds it, and closes it (by ending) when the agent
ends or has said nothing for `PATIENCE_S`. This process may be stopped too, with all of its container: so each tick
brings what the rules need to stay in effect for a moment longer (`ruleset.Ruleset.renew`).

It is started in the target's network namespace with one inherited descriptor, a SOCK_SEQPACKET socket to the agent:

    agent to keeper   b"\0" * 4, then a batch   a tick: the agent's loop runs; the batch (empty: none) is for the kernel
                      4 bytes, then a batch     to be given to the kernel (`netlink.batch`)
                      b"\xff" * 4, then bytes   to be given to the kernel when the table is gone; empty: nothing
    keeper to agent   b"\0" * 4                 it is there; and to each tick: it has been carried out, or refused
                      the 4 bytes, then the kernel's answers

It is run as a file (`python -I -S keeper.py FD PID`), not as a module, and imports only what a bare interpreter has
loaded or loads at once, because nothing can be intercepted before it is there.
"""

import contextlib
import os
import select
import socket
import sys

PATIENCE_S = 1.0
"""Silence after which the agent counts as hung."""
TICK_S = 0.25
"""How often the agent should speak."""
TICK = b"\0\0\0\0"
FAREWELL = b"\xff\xff\xff\xff"

_NETLINK_NETFILTER = 12
_LINK_BYTES_MAX = 1 << 20


class Keeper:
    """Serves one agent."""

    def __init__(self, link: socket.socket, agent_pidfd: int) -> None:
        self._link = link
        self._agent_pidfd = agent_pidfd
        self._farewell = b""
        self._events = select.poll()
        self._events.register(link, select.POLLIN)
        # The link's end of file would do, if the agent never had a child that inherits its end.
        self._events.register(agent_pidfd, select.POLLIN)

    def keep(self) -> None:
        """Keeps the table until the agent ends, is through with it, or falls silent.

        A silent agent may speak again, and still have connections that the farewell would cut off: then that waits
        until the agent has ended, or says that it has another table.
        """
        with _open_netlink() as netlink:
            self._link.send(TICK)
            is_silent = self._serve(netlink)
        if is_silent:
            self._link.shutdown(socket.SHUT_WR)
            while message := self._hear():
                if message[:4] == FAREWELL:
                    self._farewell = message[4:]
        if self._farewell:
            with _open_netlink() as netlink:
                _exchange(netlink, self._farewell)

    def _serve(self, netlink: socket.socket) -> bool:
        """Returns True if the agent has said nothing for too long, False if it is through."""
        while message := self._hear(PATIENCE_S):
            if message[:4] == FAREWELL:
                self._farewell = message[4:]
            else:
                answers = _exchange(netlink, message[4:]) if len(message) > len(TICK) else b""
                with contextlib.suppress(ConnectionError):  # the agent has ended: `_hear` sees that
                    self._link.send(TICK if message[:4] == TICK else message[:4] + answers)
        return message is None

    def _hear(self, patience_s: float | None = None) -> bytes | None:
        """What the agent says; empty: it has ended or closed the link; None: nothing for `patience_s`."""
        ready = self._events.poll(None if patience_s is None else patience_s * 1000)
        if not ready:
            return None
        if all(number == self._agent_pidfd for number, _ in ready):
            return b""
        try:
            return self._link.recv(_LINK_BYTES_MAX)
        except ConnectionResetError:  # it ended with answers unread
            return b""


def _open_netlink() -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    netlink.bind((0, 0))
    return netlink


def _exchange(netlink: socket.socket, batch: bytes) -> bytes:
    """The kernel's answers to a batch; they are all there when `send` returns."""
    answers = []
    try:
        netlink.send(batch)
        while True:
            answers.append(netlink.recv(_LINK_BYTES_MAX, socket.MSG_DONTWAIT))
    except OSError:  # EAGAIN: that was all. Anything else shows as an answer that is missing.
        return b"".join(answers)


def main() -> None:
    """Takes the descriptor of the link and the agent's pid from the command line."""
    link = socket.socket(fileno=int(sys.argv[1]))
    # The agent is gone before anything was kept, and so is the reason to be here.
    with contextlib.suppress(ProcessLookupError, BrokenPipeError, KeyboardInterrupt):
        Keeper(link, os.pidfd_open(int(sys.argv[2]))).keep()


if __name__ == "__main__":
    main()
