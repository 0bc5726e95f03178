"""The proxy's start: first what others wait for, then the slow imports.

Importing what a session needs takes some tenths of a second, here and in the agent. So while the main thread does
that, another one takes the order of `mirror exec`, starts the agent, and only then finds or makes the target. An agent
in a cluster is started by the session itself.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from typing import NoReturn

from mirror.cli import handover, targets
from mirror.cli.background import LINK_FD
from mirror.cli.cluster import reference
from mirror.cli.errors import EXIT_FAILED, MirrorError
from mirror.cli.handover import Order, Progress, Refusal
from mirror.cli.proxy.agent_process import AgentProcess
from mirror.cli.settings import TARGETLESS


class _Beginning:
    """What happens beside the imports, in threads of its own."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._is_complete = threading.Event()
        self._is_served = False
        self._agent: AgentProcess | None = None
        self._order: Order | None = None
        threading.Thread(target=self._run, name="beginning", daemon=True).start()

    def wait(self) -> tuple[Order, AgentProcess | None]:
        """Everything that was begun; no agent if it is to be in a cluster. From here on the caller sees to the end."""
        self._is_complete.wait()
        self._is_served = True
        assert self._order is not None
        return self._order, self._agent

    def _run(self) -> None:
        line = b""
        while not line.endswith(b"\n"):
            received = self._link.recv(1 << 16)
            if not received:
                os._exit(0)  # there will be no session
            line += received
        order = handover.decode(line)
        assert isinstance(order, Order)
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        try:
            self._say(Progress(f"target {order.settings.target}"))
            if reference.is_reference(order.settings.target):
                if order.settings.target != TARGETLESS:
                    reference.parse(order.settings.target)
            else:
                self._start_agent(order)
            self._order = order
        except MirrorError as error:
            self._refuse(Refusal(error.sentence, error.exit_status))
        except Exception as error:
            self._refuse(Refusal(f"the session cannot be started ({error!r}); please report it", EXIT_FAILED))
        self._is_complete.set()

    def _start_agent(self, order: Order) -> None:
        """Starts the agent of a target on this machine, then opens the target."""
        pid = targets.find_at_once(order.settings.target)
        agent = self._agent = AgentProcess(order.settings.target, pid)
        opened = targets.open_target(order.settings.target, order.variables)
        self._say(Progress(f"target is process {opened.pid}"))
        agent.opened = opened
        if pid is None:
            agent.stand_in_for(opened.pid)

    def _watch(self) -> None:
        """Ends this process at once if `mirror exec` ends before a session is served; nothing of it must stay."""
        with contextlib.suppress(OSError):  # trio has it already
            self._link.recv(1)  # there is nothing more to come but the end
        if not self._is_served:
            self._end()

    def _say(self, said: handover.Said) -> None:
        with contextlib.suppress(OSError):  # it is gone, and `_watch` sees that
            self._link.sendall(handover.encode(said))

    def _refuse(self, refusal: Refusal) -> NoReturn:
        self._say(refusal)
        self._end()

    def _end(self) -> NoReturn:
        if self._agent is not None:
            self._agent.kill()  # it would notice too, but only when it has imported everything
        os._exit(0)


def main() -> None:
    """Runs one session."""
    link = socket.socket(fileno=LINK_FD)
    os.set_inheritable(LINK_FD, False)
    beginning = _Beginning(link)

    import trio

    from mirror.cli.proxy import start

    trio.run(start.serve, *beginning.wait(), link)
    # Threads that hang must not hold the process; there is nothing to tidy up.
    sys.stderr.flush()
    os._exit(0)


main()
