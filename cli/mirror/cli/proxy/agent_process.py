"""The agent of a target on this machine: a process that this one starts and that ends when we close its connection.

It is to be started before anything slow is done, so that its imports run meanwhile: which target it is for can be told
later, and trio is imported here only by what needs it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from mirror.cli.background import PYTHON, last_line, open_errors
from mirror.cli.cluster.probes import Probes
from mirror.cli.errors import MirrorError, TargetError
from mirror.cli.targets import Target

if TYPE_CHECKING:
    import trio

    from mirror.cli.proxy.agent import Agent, Tell

_AGENT_FD = 3
_END_WITHIN_S = 0.5
_LAST_WORDS_WITHIN_S = 1.0
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
"""Nothing of the user's: RES_OPTIONS or LOCALDOMAIN, say, would change how names are looked up in the target."""


class AgentProcess:
    """A running agent: an `agent.Agent`.

    Attributes:
        socket: Our end of its connection.
        opened: Its target, which ends with it; set once it is known.
    """

    opened: Target | None = None
    probes = Probes()
    """Nobody is known to probe a process of this machine."""
    replicas = ()
    reasons: Mapping[str, str] = {}
    comes_back = False

    def __init__(self, target: str, pid: int | None) -> None:
        """Starts an agent. It has imported nothing when this returns, so that we can go on meanwhile.

        Args:
            target: What the user calls it.
            pid: The target's process; None: `stand_in_for` will tell it.

        Raises:
            OSError: There are no more processes or descriptors.
        """
        self.name = self.whereabouts = self.target_id = target
        ours, theirs = socket.socketpair()
        input_fd, self._target_fd = os.pipe()
        self._errors_fd = open_errors("agent")
        with theirs:
            self.pid = os.posix_spawn(
                sys.executable,
                [*PYTHON, "mirror.agent", "--pid", "-" if pid is None else str(pid), "--fd", str(_AGENT_FD)],
                _ENVIRONMENT,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, input_fd, 0),
                    (os.POSIX_SPAWN_DUP2, self._errors_fd, 2),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), _AGENT_FD),
                ],
            )
        os.close(input_fd)
        self.socket = ours
        self._pidfd = os.pidfd_open(self.pid)

    def stand_in_for(self, pid: int) -> None:
        """Tells it the target's process, once, if it was started without. If it has ended, its connection says so."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._target_fd, b"%d\n" % pid)

    async def wait(self) -> None:
        """Until it has ended."""
        import trio

        await trio.lowlevel.wait_readable(self._pidfd)

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Nothing need be held for it."""
        yield

    async def connect(self, tell: Tell) -> trio.abc.Stream:
        """Its connection, the only one that there is."""
        import trio

        return trio.SocketStream(trio.socket.from_stdlib_socket(self.socket))

    async def explain(self, error: Exception) -> TargetError:
        """Why its connection is gone: what it said last."""
        import trio

        with trio.move_on_after(_LAST_WORDS_WITHIN_S):
            await self.wait()
        return TargetError(f"{self.name} cannot be entered: {last_line(self._errors_fd) or error}")

    async def explain_silence(self, waited_s: float) -> TargetError:
        """Nobody knows."""
        return TargetError(f"the agent of {self.name} did not answer within {waited_s:.0f} s; try again")

    def welcomed(self) -> None:
        """Nothing follows from that."""

    def begin_again(self, failure: MirrorError | None) -> None:
        """Never called, since it does not come back."""

    async def pause(self, seconds: float) -> None:
        """Never called."""

    def lost(self, error: Exception) -> str:
        """It ends for reasons of its own."""
        return ""

    async def until_gone(self, _: Callable[[str], None], /) -> str:
        """Never returns: with its target's process it loses nothing but the environment."""
        import trio

        await trio.sleep_forever()

    async def until_others(self, replicas: Sequence[Agent]) -> None:
        """Never returns."""
        import trio

        await trio.sleep_forever()

    def kill(self) -> None:
        """Ends it at once."""
        os.kill(self.pid, signal.SIGKILL)

    async def end(self, *, at_once: bool) -> None:
        """Sees to its end, which the closing of its connection brings about, and then to its target's.

        Args:
            at_once: Do not wait for it to notice: it has done nothing yet that it would have to undo.
        """
        import trio

        with trio.CancelScope(shield=True):
            with trio.move_on_after(0 if at_once else _END_WITHIN_S) as patience:
                await self.wait()
            if patience.cancelled_caught:
                self.kill()
                await self.wait()
            os.waitpid(self.pid, 0)  # noqa: ASYNC222 - it is dead
            os.close(self._pidfd)
            os.close(self._errors_fd)
            os.close(self._target_fd)
            if self.opened is not None:
                await trio.to_thread.run_sync(self.opened.close)
