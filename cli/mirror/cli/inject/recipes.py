"""Which processes need Frida, and what is known for the others.

A recipe says for each function of the layer's table which bytes it begins with in one build of the C library, and
which of them are distances. Frida's disassembler makes it, in a throw-away process. It is kept by the library's build
id, for the session here and for others in `cache`; the layer compares every byte before it changes one. A user's
process is attached to only where that is not enough: its C library is another one than the machine's, has functions
that cannot be moved so, or has been changed in its memory.
"""

from __future__ import annotations

import threading

import trio

from mirror.cli.inject.attachment import InjectFailed
from mirror.cli.inject.cache import RecipeCache
from mirror.cli.inject.frida_process import FridaProcess, Report

TIMEOUT_S = 40.0
"""For one process. A busy machine needs less than a second; a process held by a debugger several."""
AT_ONCE = 4
"""Attachments that run side by side: each is work for the processor, more of them would only slow each other down."""
PROBES = 3
"""How often Frida may fail to look at the C library before processes are attached to."""


class Injector:
    """Puts the hooks into the processes of one session."""

    def __init__(self) -> None:
        self._cache = RecipeCache()
        self._recipes: dict[bytes, bytes] = {}
        """By build id; empty: each process with this library needs Frida."""
        self._first = threading.Lock()
        """Held while a recipe is looked for: others with the same library wait for it."""
        self._frida: FridaProcess | None = None
        """For the session's own processes; runs from when one has needed it."""
        self._frida_lock = threading.Lock()
        self._limiter = trio.CapacityLimiter(AT_ONCE)

    def known(self, libc: bytes) -> bytes:
        """The recipe for a C library, if it is known already; else empty."""
        return self._recipes.get(libc, b"")

    async def hook(self, pid: int, libc: bytes) -> bytes:
        """The recipe by which the process `pid` puts the hooks in itself; empty when Frida has put them in.

        Args:
            pid: A process that waits in the layer's constructor, and does so until it is answered.
            libc: The build id of its C library; empty: unknown, or the recipe did not fit.

        Raises:
            InjectFailed: Frida is missing or may not attach, the process is gone or does not react, or a function of
                its C library could not be replaced. Nothing of the program's own code must run then.
        """
        if recipe := self.known(libc):
            return recipe
        # Abandoned, the thread ends when Frida's own timeouts strike; the process is refused by then.
        with trio.move_on_after(TIMEOUT_S):
            return await trio.to_thread.run_sync(self._hook, pid, libc, limiter=self._limiter, abandon_on_cancel=True)
        raise InjectFailed(
            f"process {pid} did not react to Frida within {TIMEOUT_S:.0f} s; try again on a less busy machine"
        )

    async def warm_up(self) -> None:
        """Has Frida look at this machine's C library if no session has done that before. Failures show in `hook`."""
        await trio.to_thread.run_sync(self._warm_up, abandon_on_cancel=True)

    def close(self) -> None:
        """Ends Frida's process, if one runs."""
        with self._frida_lock:
            if self._frida is not None:
                self._frida.close()
                self._frida = None

    def _hook(self, pid: int, libc: bytes) -> bytes:
        if libc and (recipe := self._find(libc)):
            return recipe
        self._start_frida().inject(pid)
        return b""

    def _warm_up(self) -> None:
        with self._first:
            if not self._recipes and not self._cache.has_any():
                self._probe()

    def _find(self, libc: bytes) -> bytes:
        """The recipe for a C library, from wherever it can be had; empty: from nowhere."""
        with self._first:
            if libc not in self._recipes:
                cached = self._cache.load(libc)
                if cached:
                    self._recipes[libc] = cached
                else:
                    self._probe()
            return self._recipes.setdefault(libc, b"")

    def _probe(self) -> None:
        """Learns the recipe for the C library that programs of this machine have, if there is one."""
        for _ in range(PROBES):
            try:
                report = probe()
            except InjectFailed:
                continue
            if report.libc:
                self._recipes[report.libc] = report.recipe
            if report.libc and report.recipe:
                self._cache.store(report.libc, report.recipe)
            return

    def _start_frida(self) -> FridaProcess:
        with self._frida_lock:
            if self._frida is not None and not self._frida.is_running():
                self._frida.close()
                self._frida = None
            if self._frida is None:
                self._frida = FridaProcess()
            return self._frida


def probe() -> Report:
    """Has Frida put the hooks into a process that does nothing else.

    Raises:
        InjectFailed: as `Injector.hook` says.
    """
    with FridaProcess() as frida:
        return frida.probe()
