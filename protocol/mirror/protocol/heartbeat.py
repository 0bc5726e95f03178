"""When to ask a silent peer whether it lives, and for how long it has been silent. Time comes from outside."""

from __future__ import annotations

TICK_S = 1.0
"""How often `tick` is to be called."""

PING_AFTER_S = 5.0
"""A side that has heard nothing for so long asks."""

LOST_AFTER_S = 13.0
"""A side that has heard nothing for so long, though it asked, gives up.

Silence is counted from the tick after the last word and seen at a tick, so a peer that vanishes is noticed within 15 s.
"""


class Heartbeat:
    """The silence of one peer. Whatever is heard of it counts as life, not only answers to `Ping`."""

    def __init__(self) -> None:
        self.wants_ping = False
        """Whether it is time to ask; whoever asks takes it back."""
        self._heard = True
        self._asked = False
        self._quiet_since_s = 0.0
        self._ticked_at_s: float | None = None

    def hear(self) -> None:
        """Something has come."""
        self._heard = True

    def tick(self, now_s: float) -> float:
        """For how many seconds nothing has come, at `now_s` of a monotonic clock.

        Time in which this process itself was stopped (SIGSTOP, a suspended laptop) does not count: an answer
        may have come meanwhile and wait to be read.
        """
        stopped_s = max(0.0, now_s - self._ticked_at_s - 2 * TICK_S) if self._ticked_at_s is not None else 0.0
        self._ticked_at_s = now_s
        if self._heard:
            self._heard = self._asked = self.wants_ping = False
            self._quiet_since_s = now_s
        else:
            self._quiet_since_s += stopped_s
        silence_s = now_s - self._quiet_since_s
        if silence_s >= PING_AFTER_S and not self._asked:
            self._asked = self.wants_ping = True
        return silence_s
