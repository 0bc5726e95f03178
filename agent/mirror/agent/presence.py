"""Whether anybody uses the agent: how long it stays when nobody does."""

from __future__ import annotations

import trio


class Presence:
    """Who has come and gone.

    Args:
        first_within_s: How long to wait for the first one.
        grace_s: How long to wait for another one when the last has gone.
    """

    def __init__(self, first_within_s: float, grace_s: float) -> None:
        self._patience_s = first_within_s
        self._grace_s = grace_s
        self._present = 0
        self._somebody = trio.Event()
        self._nobody = trio.Event()

    def __bool__(self) -> bool:
        return self._present > 0

    def come(self) -> None:
        """Somebody is there."""
        self._present += 1
        self._somebody.set()

    def go(self) -> None:
        """One of them has gone."""
        self._present -= 1
        if not self._present:
            self._nobody.set()

    def waste_no_time(self) -> None:
        """Lets `until_unused` return as soon as nobody is there."""
        self._grace_s = 0
        if not self._present:
            self._patience_s = 0
            self._somebody.set()

    async def until_unused(self) -> None:
        """Returns when nobody has come for as long as there is patience. To be called once."""
        while True:
            with trio.move_on_after(self._patience_s):
                await self._somebody.wait()
            if not self._present and not self._somebody.is_set():
                return
            while self._present:
                self._nobody = trio.Event()
                await self._nobody.wait()
            self._somebody = trio.Event()
            self._patience_s = self._grace_s
