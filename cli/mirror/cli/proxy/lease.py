"""A map that forgets: what it is told holds for a lease and then counts as never said. Pure.

Everything the target says is true for the moment; for the length of a lease it is taken to stay true, which saves the
round trip of asking again. Entries live equally long, but for a few, so the order in which they came is the order in
which they go, and forgetting costs nothing but the entries forgotten. The clock is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LeaseMap(Generic[K, V]):
    """Remembers values for a lease.

    Args:
        lease_s: How long a value holds; 0: nothing is remembered.
        clock: Seconds, never going back.
        most: How many entries are kept at most; the oldest go first.
        most_bytes: How much the entries may weigh together, by `weigh`; None: any amount.
        weigh: What a value weighs, in bytes.
        forget: Called with each value that is dropped, replaced values included.
    """

    def __init__(
        self,
        lease_s: float,
        clock: Callable[[], float],
        most: int,
        *,
        most_bytes: int | None = None,
        weigh: Callable[[V], int] = lambda value: 0,
        forget: Callable[[V], None] = lambda value: None,
    ) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._most = most
        self._most_bytes = most_bytes
        self._weigh = weigh
        self._forget = forget
        self._entries: dict[K, tuple[float, V]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value, if it was put within the lease."""
        found = self.get_dated(key)
        return None if found is None else found[1]

    def get_dated(self, key: K) -> tuple[float, V] | None:
        """The value and when its lease began, if that is not over."""
        entry = self._entries.get(key)
        if entry is None or self._clock() - entry[0] >= self._lease_s:
            return None
        return entry

    def put(self, key: K, value: V, extra_s: float = 0.0) -> None:
        """Remembers a value from this moment on, and drops what is over or too much.

        A value that cannot be kept at all (no lease, heavier than everything may be) is forgotten at once.

        Args:
            key: Replaces what was put for it.
            value: What to remember.
            extra_s: How much longer than a lease it holds.
        """
        self.drop(key)
        self._entries[key] = (self._clock() + extra_s, value)
        self._bytes += self._weigh(value)
        self.expire()
        while len(self._entries) > self._most or (self._most_bytes is not None and self._bytes > self._most_bytes):
            self.drop(next(iter(self._entries)))

    def drop(self, key: K) -> None:
        """Forgets one value, if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= self._weigh(entry[1])
            self._forget(entry[1])

    def expire(self) -> None:
        """Forgets everything whose lease is over."""
        over = self._clock() - self._lease_s
        while self._entries:
            key, (since, _) = next(iter(self._entries.items()))
            if since > over:
                break
            self.drop(key)

    def clear(self) -> None:
        """Forgets everything."""
        for key in list(self._entries):
            self.drop(key)
