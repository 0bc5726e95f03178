"""What the parts of one session share: the agent's connection, the hooked processes, ways to tell the user.

The parts (files, directories, names, outgoing, incoming) each answer some of the layer's messages; they know a
`Session`, never each other but where they share a table. In which order all this starts is told in `start`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from mirror.cli import handover
from mirror.cli.cluster.probes import Probes
from mirror.cli.handover import Order, Progress, Ready
from mirror.cli.proxy import console, rules, surroundings
from mirror.cli.proxy.layers import Layers, Process
from mirror.cli.proxy.lifeline import GRACE_S, Lifelines
from mirror.cli.settings import Settings

if TYPE_CHECKING:
    from mirror.cli.proxy.uplink import Uplink


class Session:
    """One session, from the order to its end.

    Args:
        order: What `mirror exec` asked for.
        link: To `mirror exec`, as long as that listens.
        nursery: In which everything runs; its cancellation is the session's end.

    Attributes:
        order: As given.
        settings: The part of it that the user wrote.
        rules: The path table.
        lifelines: What keeps the session going.
        layers: The hooked processes.
        uplink: The connection to the agent.
        missing: For each capability that the agent lacks here, one sentence with a remedy.
        probes: On which ports of the target its probes ask.
        host_name: What the target's machine is called; empty: that is not known, or not wanted.
        domain_name: Likewise, its NIS domain.
        is_introduced: Whether the agent has said what it can do, and so may have begun to do something.
    """

    uplink: Uplink

    def __init__(self, order: Order, link: trio.SocketStream, nursery: trio.Nursery) -> None:
        self.order = order
        self.settings: Settings = order.settings
        self.rules = rules.build(
            order.settings.fs_mode,
            surroundings.look_around(order.working_directory, order.files, order.argv, order.variables),
        )
        self.lifelines = Lifelines()
        self.layers = Layers(self.lifelines.held, self.lifelines.is_held_by)
        self.missing: dict[str, str] = {}
        self.is_introduced = False
        self.probes = Probes()
        self.host_name = self.domain_name = b""
        self._link: trio.SocketStream | None = link
        self._one_at_a_time = trio.Lock()
        self._nursery = nursery
        self._told: set[str] = set()
        self._is_ending = False

    # --- for the parts ------------------------------------------------------------------------------------

    def start(self, function: Callable[..., Awaitable[object]], *arguments: Any) -> None:
        """Runs something beside everything else, until the session ends at the latest. It must not raise."""
        self._nursery.start_soon(function, *arguments)

    async def start_and_wait(self, function: Callable[..., Awaitable[object]], *arguments: Any) -> None:
        """The same, and waits until it calls `task_status.started`; what it raises before that is raised here."""
        await self._nursery.start(function, *arguments)

    def tell_user(self, sentence: str, *, again: bool = False) -> None:
        """Shows the user one sentence, once, or each time with `again`. Returns at once."""
        if again or sentence not in self._told:
            self._told.add(sentence)
            print(sentence, file=sys.stderr, flush=True)
            self.start(self._tell, sentence)

    def agent_lost(self, error: Exception) -> None:
        """Tells the user that nothing of the target can be reached any more."""
        if not self._is_ending and self._link is None:
            self.tell_user(
                f"the agent of {self.settings.target} is gone ({error}): what the program asks of the target fails "
                f"with EIO from here on; end it and start it again"
            )

    async def _tell(self, sentence: str) -> None:
        if self._link is not None:
            await self.say(Progress(sentence, is_warning=True))
        else:
            pids = list(self.layers.processes)
            await trio.to_thread.run_sync(console.tell, sentence, pids, self.order.console, abandon_on_cancel=True)

    # --- for the start and the end ------------------------------------------------------------------------

    async def open(self) -> None:
        """Lets processes connect, and sees from here on to the session's end when nobody is left.

        Raises:
            ProcessLookupError: `mirror exec` is gone already.
        """
        await self._nursery.start(self.layers.listen)
        await self._nursery.start(self.lifelines.listen)
        await self._nursery.start(self.layers.follow, Process(self.order.pid))
        self.start(self._end_when_over)

    async def progress(self, text: str, /, *, stays: bool = False) -> None:
        """Tells `mirror exec` how the start goes: an `agent.Tell`."""
        await self.say(Progress(text, stays=stays))

    async def hand_over(self, ready: Ready) -> None:
        """The last word to `mirror exec`."""
        self.lifelines.grace_s = GRACE_S
        await self.say(ready)
        self._link = None

    async def say(self, said: handover.Said) -> None:
        """Tells `mirror exec` something, if it still listens."""
        async with self._one_at_a_time:
            if self._link is not None:
                try:
                    await self._link.send_all(handover.encode(said))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._link = None

    def end(self) -> None:
        """Ends everything, once. What was lost from here on is no news."""
        if self._is_ending:
            return
        self._is_ending = True
        self._nursery.cancel_scope.cancel()
        self._write_counts()

    async def _end_when_over(self) -> None:
        await self.lifelines.wait_over()
        self.end()

    def _write_counts(self) -> None:
        """How many requests of each kind went to the agent, into the file that MIRROR_COUNTS names: for benchmarks."""
        path = self.order.variables.get("MIRROR_COUNTS")
        if path and hasattr(self, "uplink"):
            temporary = f"{path}.{os.getpid()}"
            try:
                with open(temporary, "w") as file:
                    json.dump(self.uplink.requests_sent, file)
                os.replace(temporary, path)
            except OSError as error:
                print(f"{path}: {error}", file=sys.stderr)
